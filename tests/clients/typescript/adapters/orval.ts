// orval with its fetch client, and the schemas that it makes for zod, by which answers are checked here.

import * as tasks from "./generated/orval/client";
import * as schemas from "./generated/orval/schemas";
import { type Answer, type Connect, type Problem, type Task, lifetime } from "./lifetime";

// Its functions ask for paths, as in a browser.
const [url] = process.argv.slice(2);
const { fetch } = globalThis;
globalThis.fetch = (path, options) => fetch(new URL(String(path), url), options);

async function answer<T>(call: Promise<{ status: number; data: T | Problem | void }>): Promise<Answer<T>> {
  const { status, data } = await call;
  if (status < 400) return { status, value: data as T };
  return { status, problem: data as Problem };
}

const checked = async (answer: Promise<Answer<unknown>>): Promise<Answer<Task>> => {
  const { status, value, problem } = await answer;
  return { status, value: status < 300 ? schemas.getTaskResponse.parse(value) : undefined, problem };
};

const connect: Connect = (_, user, token) => {
  const options = { headers: { Authorization: `Bearer ${token}` } };
  return {
    create: (body, key) =>
      checked(answer(tasks.createTask(user, body, key ? { "Idempotency-Key": key } : undefined, options))),
    list: async (query) => {
      const page = await answer(tasks.listTasks(user, query, options));
      return { ...page, value: schemas.listTasksResponse.parse(page.value) };
    },
    read: (id, tag) => checked(answer(tasks.getTask(user, id, tag ? { "If-None-Match": tag } : undefined, options))),
    replace: (id, title, tag) => checked(answer(tasks.replaceTask(user, id, { title }, { "If-Match": tag }, options))),
    removeDescription: (id, tag) =>
      checked(answer(tasks.updateTask(user, id, { description: null }, { "If-Match": tag }, options))),
    toggle: (id) => checked(answer(tasks.toggleTaskCompletion(user, id, undefined, options))),
    delete: (id) => answer(tasks.deleteTask(user, id, undefined, options)),
  };
};

await lifetime(connect);
