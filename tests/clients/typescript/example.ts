import createClient from "openapi-fetch";
import type { paths } from "./schema";

const [baseUrl, user_id, token] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
const body = { title: "Buy oat milk" };
const created = await client.POST("/api/{user_id}/tasks", { params: { path: { user_id } }, body });
if (!created.data) throw new Error(created.error?.detail);
const header = { "If-Match": created.response.headers.get("ETag")! };
const path = { user_id, task_id: created.data.id };
const done = await client.PATCH("/api/{user_id}/tasks/{task_id}/complete", { params: { path, header } });
console.log(done.error ? done.error.detail : done.data?.title); // a problem: somebody else was faster
