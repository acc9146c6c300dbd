// openapi-typescript-codegen with its fetch client, in which an answer that is no success is thrown.

import { ApiError, OpenAPI, type Problem, TasksService } from "./generated/openapi-typescript-codegen";
import { type Answer, type Connect, lifetime } from "./lifetime";

async function answer<T>(call: Promise<T | Problem>, status: number): Promise<Answer<T>> {
  try {
    // The type of every answer has `Problem` in it, because the contract has problems of any status.
    return { status, value: (await call) as T };
  } catch (thrown) {
    if (!(thrown instanceof ApiError)) throw thrown;
    return { status: thrown.status, problem: thrown.body?.type ? thrown.body : undefined };
  }
}

const connect: Connect = (url, user, token) => {
  const as = <T>(call: () => T): T => {
    Object.assign(OpenAPI, { BASE: url, TOKEN: token });
    return call();
  };
  return {
    create: (body, key) => as(() => answer(TasksService.createTask(user, body, key), 201)),
    list: ({ limit, cursor }) => as(() => answer(TasksService.listTasks(user, limit, cursor), 200)),
    read: (id, tag) => as(() => answer(TasksService.getTask(user, id, tag), 200)),
    replace: (id, title, tag) => as(() => answer(TasksService.replaceTask(user, id, { title }, tag), 200)),
    removeDescription: (id, tag) =>
      as(() => answer(TasksService.updateTask(user, id, { description: null }, tag), 200)),
    toggle: (id) => as(() => answer(TasksService.toggleTaskCompletion(user, id), 200)),
    delete: (id) => as(() => answer(TasksService.deleteTask(user, id), 204)),
  };
};

await lifetime(connect);
