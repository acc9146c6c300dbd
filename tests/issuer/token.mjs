import { SignJWT } from "jose";
import { auth } from "./auth.mjs";

export async function GET(request) {
  const session = await auth.api.getSession({ headers: request.headers });
  if (!session) return new Response(null, { status: 401 });
  const { id, email, name } = session.user;
  const token = await new SignJWT({ email, name })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(id)
    .setIssuedAt()
    .setExpirationTime("15 minutes")
    .sign(new TextEncoder().encode(process.env.BETTER_AUTH_SECRET));
  return Response.json({ token });
}
