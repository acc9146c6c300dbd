// Serves auth.mjs and token.mjs on a free port of the loopback, for the tests, until its standard input ends.
//
// Its first line on standard output is its URL. JWT_OPTIONS, as JSON, replaces the options of the jwt plugin.

import { once } from "node:events";
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { fromNodeHeaders, toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";

const keyRequestsAtSeconds = [];
let answer;

const server = createServer((request, response) => answer(request, response));
server.listen(0, "127.0.0.1");
await once(server, "listening");

// The address is known only now, and auth.mjs reads it when it is imported.
process.env.BETTER_AUTH_URL = `http://127.0.0.1:${server.address().port}`;
const { auth } = await import("./auth.mjs");
const { GET } = await import("./token.mjs");

const options = process.env.JWT_OPTIONS
  ? { ...auth.options, plugins: [jwt(JSON.parse(process.env.JWT_OPTIONS))] }
  : auth.options;
// Better Auth has complained by now that its tables are missing: here they are made.
const { runMigrations } = await getMigrations(options);
await runMigrations();
const answerAuth = toNodeHandler(process.env.JWT_OPTIONS ? betterAuth(options) : auth);

answer = async (request, response) => {
  if (request.url === "/key-requests") {
    response.end(JSON.stringify(keyRequestsAtSeconds));
  } else if (request.url === "/api/token") {
    const { status, body } = await GET({ headers: fromNodeHeaders(request.headers) });
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(body ? await new Response(body).text() : undefined);
  } else {
    if (request.url === "/api/auth/jwks") keyRequestsAtSeconds.push(Date.now() / 1000);
    await answerAuth(request, response);
  }
};

process.stdin.resume().on("end", () => process.exit(0));
console.log(process.env.BETTER_AUTH_URL);
