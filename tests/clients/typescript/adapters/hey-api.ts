// @hey-api/openapi-ts with its fetch client. Its zod schemas check what is sent and what comes.

import { createClient, createConfig } from "./generated/hey-api/client";
import * as tasks from "./generated/hey-api";
import { type Answer, type Connect, type Problem, lifetime } from "./lifetime";

async function answer<T>(
  call: Promise<{ data?: T | undefined; error?: Problem | undefined; response?: Response | undefined }>,
): Promise<Answer<T>> {
  const { data, error, response } = await call;
  // An answer without a body, such as 304, is an error that says nothing.
  return { status: response?.status ?? 0, value: data, problem: error?.type ? error : undefined };
}

const connect: Connect = (baseUrl, user_id, auth) => {
  const client = createClient(createConfig({ baseUrl, auth }));
  const one = (task_id: string) => ({ client, path: { user_id, task_id } });
  return {
    create: (body, key) =>
      answer(tasks.createTask({ client, path: { user_id }, body, ...(key && { headers: { "Idempotency-Key": key } }) })),
    list: (query) => answer(tasks.listTasks({ client, path: { user_id }, query })),
    read: (id, tag) => answer(tasks.getTask({ ...one(id), ...(tag && { headers: { "If-None-Match": tag } }) })),
    replace: (id, title, tag) => answer(tasks.replaceTask({ ...one(id), body: { title }, headers: { "If-Match": tag } })),
    removeDescription: (id, tag) =>
      answer(tasks.updateTask({ ...one(id), body: { description: null }, headers: { "If-Match": tag } })),
    toggle: (id) => answer(tasks.toggleTaskCompletion(one(id))),
    delete: (id) => answer(tasks.deleteTask(one(id))),
  };
};

await lifetime(connect);
