// typed-openapi, which leaves the sending to its user.

import { createApiClient, type Fetcher } from "./generated/typed-openapi/client";
import { type Answer, type Connect, type Page, type Problem, type Task, lifetime } from "./lifetime";

async function answer<T>(call: Promise<{ ok: boolean; status: number; data: unknown }>): Promise<Answer<T>> {
  const { ok, status, data } = await call;
  return ok ? { status, value: data as T } : { status, problem: data as Problem | undefined };
}

function send(token: string): Fetcher["fetch"] {
  return ({ method, url, urlSearchParams, parameters }) => {
    if (urlSearchParams) url.search = urlSearchParams.toString();
    const headers = new Headers({ Authorization: `Bearer ${token}`, ...(parameters?.header as Record<string, string>) });
    if (parameters?.body === undefined) return fetch(url, { method: method.toUpperCase(), headers });
    headers.set("Content-Type", "application/json");
    return fetch(url, { method: method.toUpperCase(), headers, body: JSON.stringify(parameters.body) });
  };
}

const TASKS = "/api/{user_id}/tasks";
const TASK = "/api/{user_id}/tasks/{task_id}";

const connect: Connect = (url, user_id, token) => {
  const client = createApiClient({ fetch: send(token) }, url);
  const one = (task_id: string) => ({ path: { user_id, task_id }, withResponse: true }) as const;
  const all = { path: { user_id }, withResponse: true } as const;
  return {
    create: (body, key) =>
      answer<Task>(client.post(TASKS, { ...all, body, header: key ? { "Idempotency-Key": key } : {} })),
    list: (query) => answer<Page>(client.get(TASKS, { ...all, query })),
    read: (id, tag) => answer<Task>(client.get(TASK, { ...one(id), header: tag ? { "If-None-Match": tag } : {} })),
    replace: (id, title, tag) => answer<Task>(client.put(TASK, { ...one(id), body: { title }, header: { "If-Match": tag } })),
    removeDescription: (id, tag) =>
      answer<Task>(client.patch(TASK, { ...one(id), body: { description: null }, header: { "If-Match": tag } })),
    toggle: (id) => answer<Task>(client.patch(`${TASK}/complete`, { ...one(id), header: {} })),
    delete: (id) => answer(client.delete(TASK, { ...one(id), header: {} })),
  };
};

await lifetime(connect);
