// The whole life of a task through any generated client, as one program: each client comes with an adapter to `Client`.

import assert from "node:assert/strict";

export interface Task {
  id: string;
  title: string;
  description: string | null;
  completed: boolean;
  created_at: string | Date;
}

export interface Problem {
  type: string;
  status: number;
}

/** An answer as the client gives it: what it is, or the problem. */
export interface Answer<T> {
  status: number;
  value?: T | undefined;
  problem?: Problem | undefined;
}

export interface Page {
  items: Task[];
  next_cursor: string | null;
}

export interface Client {
  create(body: { title: string; description?: string }, key?: string): Promise<Answer<Task>>;
  list(query: { limit: number; cursor?: string }): Promise<Answer<Page>>;
  read(id: string, ifNoneMatch?: string): Promise<Answer<Task>>;
  replace(id: string, title: string, ifMatch: string): Promise<Answer<Task>>;
  removeDescription(id: string, ifMatch: string): Promise<Answer<Task>>;
  toggle(id: string): Promise<Answer<Task>>;
  delete(id: string): Promise<Answer<unknown>>;
}

export type Connect = (url: string, user: string, token: string) => Client;

function succeed<T>(answer: Answer<T>, status: number): T {
  assert.deepEqual([answer.status, answer.problem], [status, undefined]);
  assert(answer.value);
  return answer.value;
}

function fail(answer: Answer<unknown>, status: number, name: string): void {
  assert.deepEqual(
    [answer.status, answer.problem?.status, answer.problem?.type],
    [status, status, `tag:taskpact.example,2026:${name}`],
  );
}

export async function lifetime(connect: Connect): Promise<void> {
  const [url, user, token] = process.argv.slice(2) as [string, string, string];
  const client = connect(url, user, token);
  const milk = { title: "Buy oat milk", description: "two litres" };

  // Created once under its key, and read again only if it changed.
  const task = succeed(await client.create(milk, "milk"), 201);
  assert.deepEqual([task.title, task.description, task.completed], [milk.title, milk.description, false]);
  assert(Date.now() - new Date(task.created_at).getTime() < 60_000);
  assert.deepEqual(succeed(await client.create(milk, "milk"), 201), task);
  fail(await client.create({ title: "Another" }, "milk"), 422, "idempotency-key-reused");
  assert.deepEqual(succeed(await client.read(task.id), 200), task);
  assert.equal((await client.read(task.id, '"1"')).status, 304);

  // Changed by the one who saw it last, and by nobody else.
  assert.equal(succeed(await client.removeDescription(task.id, '"1"'), 200).description, null);
  fail(await client.replace(task.id, "Late", '"1"'), 412, "precondition-failed");
  assert.equal(succeed(await client.replace(task.id, "Buy milk", '"2"'), 200).title, "Buy milk");
  for (const completed of [true, false]) {
    assert.equal(succeed(await client.toggle(task.id), 200).completed, completed);
  }

  // Listed page by page, newest first.
  const bread = succeed(await client.create({ title: "Bake bread" }), 201);
  const first = succeed(await client.list({ limit: 1 }), 200);
  assert(first.next_cursor);
  const last = succeed(await client.list({ limit: 1, cursor: first.next_cursor }), 200);
  assert.deepEqual([...first.items, ...last.items].map((each) => each.id), [bread.id, task.id]);
  assert.equal(last.next_cursor, null);

  // Deleted, and gone.
  assert.equal((await client.delete(task.id)).status, 204);
  fail(await client.read(task.id), 404, "task-not-found");
  fail(await connect(url, user, "x.y.z").read(task.id), 401, "unauthenticated");
}
