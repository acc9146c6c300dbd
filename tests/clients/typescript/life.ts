// The whole life of a task, and every problem, through the generated types and openapi-fetch.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema";

type Problem = components["schemas"]["Problem"];

const TASKS = 250;
const [url, damagedUrl, goneUrl, user_id, token] = process.argv.slice(2) as [string, string, string, string, string];
const path = { user_id };

function connect(baseUrl = url, bearer = token): Client<paths> {
  return createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${bearer}` } });
}

function refuse(answer: { error?: Problem; response: Response }, status: number, name: string): Problem {
  const { error, response } = answer;
  assert(error);
  assert.deepEqual([response.status, error.status, error.type], [status, status, `tag:taskpact.example,2026:${name}`]);
  return error;
}

function tagOf(response: Response): string {
  const tag = response.headers.get("ETag");
  assert(tag);
  return tag;
}

const client = connect();
const milk = { title: "Buy oat milk", description: "two litres" };

// Created, and read again only if it changed.
const created = await client.POST("/api/{user_id}/tasks", { params: { path }, body: milk });
assert(created.data);
assert.equal(created.response.status, 201);
const { data: task } = created;
const tag = tagOf(created.response);
assert.deepEqual([task.title, task.description, task.completed], ["Buy oat milk", "two litres", false]);
assert(created.response.headers.get("Location")?.endsWith(task.id));
const one = { user_id, task_id: task.id };
const read = await client.GET("/api/{user_id}/tasks/{task_id}", { params: { path: one } });
assert.deepEqual(read.data, task);
const unchanged = await client.GET("/api/{user_id}/tasks/{task_id}", {
  params: { path: one, header: { "If-None-Match": tag } },
});
assert.deepEqual([unchanged.response.status, unchanged.data], [304, undefined]);

// Changed by the one who saw it last, and by nobody else.
const patched = await client.PATCH("/api/{user_id}/tasks/{task_id}", {
  params: { path: one, header: { "If-Match": tag } },
  headers: { "Content-Type": "application/merge-patch+json" },
  body: { description: null },
});
assert.deepEqual([patched.data?.title, patched.data?.description], ["Buy oat milk", null]);
const late = await client.PUT("/api/{user_id}/tasks/{task_id}", {
  params: { path: one, header: { "If-Match": tag } },
  body: { title: "Late" },
});
refuse(late, 412, "precondition-failed");
const replaced = await client.PUT("/api/{user_id}/tasks/{task_id}", {
  params: { path: one, header: { "If-Match": tagOf(patched.response) } },
  body: { title: "Buy milk" },
});
assert(replaced.data);
assert.equal(replaced.data.title, "Buy milk");
assert(replaced.data.updated_at > task.updated_at);
for (const completed of [true, false]) {
  const toggled = await client.PATCH("/api/{user_id}/tasks/{task_id}/complete", { params: { path: one } });
  assert.equal(toggled.data?.completed, completed);
}

// Created once, however often it is said.
const named = { path, header: { "Idempotency-Key": "bread" } };
const bread = await client.POST("/api/{user_id}/tasks", { params: named, body: { title: "Bake bread" } });
const same = await client.POST("/api/{user_id}/tasks", { params: named, body: { title: "Bake bread" } });
assert(bread.data);
assert.deepEqual(same.data, bread.data);
refuse(await client.POST("/api/{user_id}/tasks", { params: named, body: milk }), 422, "idempotency-key-reused");
const breadPath = { user_id, task_id: bread.data.id };
await client.DELETE("/api/{user_id}/tasks/{task_id}", { params: { path: breadPath } });

// Deleted, and gone.
const deleted = await client.DELETE("/api/{user_id}/tasks/{task_id}", { params: { path: one } });
assert.equal(deleted.response.status, 204);
const missing = await client.GET("/api/{user_id}/tasks/{task_id}", { params: { path: one } });
refuse(missing, 404, "task-not-found");

// Listed page by page, newest first, each once.
const ids: string[] = [];
for (let number = 0; number < TASKS; number++) {
  const numbered = await client.POST("/api/{user_id}/tasks", { params: { path }, body: { title: `task ${number}` } });
  assert(numbered.data);
  ids.push(numbered.data.id);
}
const listed: string[] = [];
const sizes: number[] = [];
let cursor: string | null | undefined;
while (cursor !== null) {
  const query = { limit: 100, completed: false, ...(cursor && { cursor }) };
  const page: components["schemas"]["TaskPage"] | undefined = (
    await client.GET("/api/{user_id}/tasks", { params: { path, query } })
  ).data;
  assert(page);
  listed.push(...page.items.map((item) => item.id));
  sizes.push(page.items.length);
  cursor = page.next_cursor;
}
assert.deepEqual(listed, ids.reverse());
assert.deepEqual(sizes, [100, 100, 50]);

// Each problem, by its type.
const list = { params: { path } };
const nobody = { params: { path: { user_id, task_id: randomUUID() } } };
refuse(await connect(url, "x.y.z").GET("/api/{user_id}/tasks", list), 401, "unauthenticated");
refuse(await client.GET("/api/{user_id}/tasks", { params: { path: { user_id: "another" } } }), 403, "forbidden");
refuse(await client.PATCH("/api/{user_id}/tasks/{task_id}/complete", nobody), 404, "task-not-found");
const rude = connect();
rude.use({ onRequest: ({ request }) => new Request(request, { method: "POST" }) });
refuse(await rude.GET("/api/{user_id}/tasks/{task_id}", nobody), 405, "method-not-allowed");
const large = await client.POST("/api/{user_id}/tasks", { params: { path }, body: { title: "x".repeat(2 ** 16) } });
refuse(large, 413, "content-too-large");
const text = { params: { path }, body: milk, headers: { "Content-Type": "text/plain" } };
refuse(await client.POST("/api/{user_id}/tasks", text), 415, "unsupported-media-type");
const html = await client.GET("/api/{user_id}/tasks", { ...list, headers: { Accept: "text/html" } });
refuse(html, 406, "not-acceptable");
const blank = await client.POST("/api/{user_id}/tasks", { params: { path }, body: { title: " " } });
assert.equal(refuse(blank, 422, "invalid-request").errors?.[0]?.pointer, "/title");
const beyond = await client.GET("/api/{user_id}/tasks", { params: { path, query: { limit: 101 } } });
assert.equal(refuse(beyond, 422, "invalid-request").errors?.[0]?.parameter, "limit");
const damaged = await connect(damagedUrl).POST("/api/{user_id}/tasks", { params: { path }, body: milk });
refuse(damaged, 500, "internal-error");
const gone = await connect(goneUrl).GET("/api/{user_id}/tasks", list);
refuse(gone, 503, "database-unavailable");
assert.equal(gone.response.headers.get("Retry-After"), "1");
