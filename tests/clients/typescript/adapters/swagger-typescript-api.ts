// swagger-typescript-api with its fetch client, in which an answer that is no success is thrown.

import { Api } from "./generated/swagger-typescript-api/api";
import { type Answer, type Connect, type Problem, lifetime } from "./lifetime";

async function answer<T>(call: Promise<{ status: number; data: T }>): Promise<Answer<T>> {
  try {
    const { status, data } = await call;
    return { status, value: data };
  } catch (thrown) {
    const { status, error } = thrown as { status: number; error: Problem | null };
    return { status, problem: error?.type ? error : undefined };
  }
}

const connect: Connect = (baseUrl, user, token) => {
  const { api } = new Api({ baseUrl, baseApiParams: { headers: { Authorization: `Bearer ${token}` } } });
  const fields = (name: string, value?: string) => (value ? { headers: { [name]: value } } : {});
  return {
    create: (body, key) => answer(api.createTask(user, body, fields("Idempotency-Key", key))),
    list: (query) => answer(api.listTasks(user, query)),
    read: (id, tag) => answer(api.getTask(user, id, fields("If-None-Match", tag))),
    replace: (id, title, tag) => answer(api.replaceTask(user, id, { title }, fields("If-Match", tag))),
    removeDescription: (id, tag) => answer(api.updateTask(user, id, { description: null }, fields("If-Match", tag))),
    toggle: (id) => answer(api.toggleTaskCompletion(user, id)),
    delete: (id) => answer(api.deleteTask(user, id)),
  };
};

await lifetime(connect);
