// openapi-generator's typescript-fetch, in which an answer that is no success is thrown.

import { Configuration, ResponseError, type Task as Generated, TasksApi } from "./generated/openapi-generator-fetch";
import { type Answer, type Connect, type Problem, type Task, lifetime } from "./lifetime";

interface Raw<T> {
  raw: Response;
  value(): Promise<T>;
}

async function answer<T, V = T>(call: Promise<Raw<T>>, shape: (value: T) => V): Promise<Answer<V>> {
  try {
    const { raw, value } = await call.then((response) => ({ raw: response.raw, value: response.value() }));
    return { status: raw.status, value: shape(await value) };
  } catch (thrown) {
    if (!(thrown instanceof ResponseError)) throw thrown;
    const { status } = thrown.response;
    return status < 400 ? { status } : { status, problem: (await thrown.response.json()) as Problem };
  }
}

const task = ({ createdAt, ...rest }: Generated): Task => ({ ...rest, created_at: createdAt });

const connect: Connect = (basePath, userId, accessToken) => {
  const api = new TasksApi(new Configuration({ basePath, accessToken }));
  return {
    create: (taskCreate, key) =>
      answer(api.createTaskRaw({ userId, taskCreate, ...(key && { idempotencyKey: key }) }), task),
    list: (query) =>
      answer(api.listTasksRaw({ userId, ...query }), (page) => ({
        items: page.items.map(task),
        next_cursor: page.nextCursor,
      })),
    read: (taskId, tag) => answer(api.getTaskRaw({ userId, taskId, ...(tag && { ifNoneMatch: tag }) }), task),
    replace: (taskId, title, ifMatch) =>
      answer(api.replaceTaskRaw({ userId, taskId, ifMatch, taskReplace: { title } }), task),
    removeDescription: (taskId, ifMatch) =>
      answer(api.updateTaskRaw({ userId, taskId, ifMatch, taskPatch: { description: null } }), task),
    toggle: (taskId) => answer(api.toggleTaskCompletionRaw({ userId, taskId }), task),
    delete: (taskId) => answer(api.deleteTaskRaw({ userId, taskId }), (nothing) => nothing),
  };
};

await lifetime(connect);
