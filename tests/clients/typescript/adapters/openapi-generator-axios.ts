// openapi-generator's typescript-axios, in which an answer that is no success is thrown.

import { isAxiosError } from "axios";
import { Configuration, TasksApi } from "./generated/openapi-generator-axios";
import { type Answer, type Connect, type Problem, lifetime } from "./lifetime";

async function answer<T>(call: Promise<{ status: number; data: T }>): Promise<Answer<T>> {
  try {
    const { status, data } = await call;
    return { status, value: data };
  } catch (thrown) {
    if (!isAxiosError<Problem>(thrown) || !thrown.response) throw thrown;
    const { status, data } = thrown.response;
    return { status, problem: data || undefined };
  }
}

const connect: Connect = (basePath, user, accessToken) => {
  const api = new TasksApi(new Configuration({ basePath, accessToken }));
  return {
    create: (body, key) => answer(api.createTask(user, body, key)),
    list: ({ limit, cursor }) => answer(api.listTasks(user, limit, cursor)),
    read: (id, tag) => answer(api.getTask(user, id, tag)),
    replace: (id, title, tag) => answer(api.replaceTask(user, id, { title }, tag)),
    removeDescription: (id, tag) => answer(api.updateTask(user, id, { description: null }, tag)),
    toggle: (id) => answer(api.toggleTaskCompletion(user, id)),
    delete: (id) => answer(api.deleteTask(user, id)),
  };
};

await lifetime(connect);
