// kubb with its fetch client. Its zod schemas check what is sent and what comes. The client is wrapped, as its users do:
// it sets no media type, and does not tell a problem from a success.

import { client as send, type Client as Send } from "@kubb/plugin-client/clients/fetch";
import * as tasks from "./generated/kubb";
import { type Answer, type Connect, type Problem, lifetime } from "./lifetime";

class Failed extends Error {
  constructor(readonly answer: Answer<never>) {
    super();
  }
}

async function answer<T>(call: Promise<{ status: number; data: T }>): Promise<Answer<T>> {
  try {
    const { status, data } = await call;
    return { status, value: data };
  } catch (error) {
    if (error instanceof Failed) return error.answer;
    throw error;
  }
}

const connect: Connect = (baseURL, user, token) => {
  const client: Send = async (request) => {
    const own = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    const headers = { ...own, ...(request.headers as Record<string, string>) };
    const response = await send<never>({ ...request, baseURL, headers });
    const { status, data } = response;
    if (status >= 300) throw new Failed({ status, problem: (data as Problem).type ? data : undefined });
    return response;
  };
  const options = { client };
  return {
    create: (body, key) => answer(tasks.createTask(user, body, key ? { "Idempotency-Key": key } : {}, options)),
    list: (query) => answer(tasks.listTasks(user, query, options)),
    read: (id, tag) => answer(tasks.getTask(user, id, tag ? { "If-None-Match": tag } : {}, options)),
    replace: (id, title, tag) => answer(tasks.replaceTask(user, id, { title }, { "If-Match": tag }, options)),
    removeDescription: (id, tag) =>
      answer(tasks.updateTask(user, id, { description: null }, { "If-Match": tag }, options)),
    toggle: (id) => answer(tasks.toggleTaskCompletion(user, id, {}, options)),
    delete: (id) => answer(tasks.deleteTask(user, id, {}, options)),
  };
};

await lifetime(connect);
