const input = process.env.CONTRACT;

// Without `headers`, no operation takes its header parameters.
export const client = { input, output: { target: "generated/orval/client.ts", client: "fetch", headers: true } };
export const schemas = { input, output: { target: "generated/orval/schemas.ts", client: "zod" } };
