export default {
  input: process.env.CONTRACT,
  output: "generated/hey-api",
  plugins: ["@hey-api/client-fetch", "@hey-api/typescript", { name: "@hey-api/sdk", validator: true }, "zod"],
};
