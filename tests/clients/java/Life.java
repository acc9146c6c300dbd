import java.net.http.HttpClient;
import java.util.List;
import java.util.UUID;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.TasksApi;
import org.openapitools.client.model.Problem;
import org.openapitools.client.model.Task;
import org.openapitools.client.model.TaskCreate;
import org.openapitools.client.model.TaskPage;
import org.openapitools.client.model.TaskPatch;
import org.openapitools.client.model.TaskReplace;

/** The whole life of a task through the client that openapi-generator makes for Java's own HTTP client. */
public final class Life {
  private interface Call {
    Object run() throws ApiException;
  }

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  private static void fails(int status, String name, Call call) throws Exception {
    try {
      check(false, "a success instead of " + status + ": " + call.run());
    } catch (ApiException error) {
      check(error.getCode() == status, error.getCode() + " instead of " + status);
      if (name != null) {
        Problem problem = ApiClient.createDefaultObjectMapper().readValue(error.getResponseBody(), Problem.class);
        check(problem.getType().equals("tag:taskpact.example,2026:" + name), problem.getType());
      }
    }
  }

  private static TasksApi connect(String url, String token) {
    ApiClient client = new ApiClient(HttpClient.newBuilder(), ApiClient.createDefaultObjectMapper(), url);
    client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + token));
    return new TasksApi(client);
  }

  public static void main(String[] arguments) throws Exception {
    String user = arguments[1];
    TasksApi api = connect(arguments[0], arguments[2]);
    TaskCreate milk = new TaskCreate().title("Buy oat milk").description("two litres");

    // Created once under its key, and read again only if it changed.
    var created = api.createTaskWithHttpInfo(user, milk, "milk");
    Task task = created.getData();
    UUID id = task.getId();
    check(created.getStatusCode() == 201 && "two litres".equals(task.getDescription()), task.toString());
    check(created.getHeaders().get("etag").equals(List.of("\"1\"")), "the entity tag");
    check(api.createTask(user, milk, "milk").equals(task), "another task under the key");
    fails(422, "idempotency-key-reused", () -> api.createTask(user, new TaskCreate().title("Another"), "milk"));
    check(api.getTask(user, id, null).equals(task), "another task");
    fails(304, null, () -> api.getTask(user, id, "\"1\""));

    // Changed by the one who saw it last, and by nobody else.
    check(api.updateTask(user, id, new TaskPatch().description(""), "\"1\"").getDescription().isEmpty(), "the patch");
    fails(412, "precondition-failed", () -> api.replaceTask(user, id, new TaskReplace().title("Late"), "\"1\""));
    Task replaced = api.replaceTask(user, id, new TaskReplace().title("Buy milk"), "\"2\"");
    check(replaced.getTitle().equals("Buy milk") && replaced.getDescription() == null, replaced.toString());
    check(replaced.getUpdatedAt().isAfter(task.getUpdatedAt()), "the time of the change");
    for (boolean completed : new boolean[] {true, false}) {
      check(api.toggleTaskCompletion(user, id, null).getCompleted() == completed, "the toggle");
    }

    // Listed page by page, newest first.
    Task bread = api.createTask(user, new TaskCreate().title("Bake bread"), null);
    TaskPage first = api.listTasks(user, 1, null, null);
    TaskPage last = api.listTasks(user, 1, first.getNextCursor(), false);
    check(first.getItems().equals(List.of(bread)), first.toString());
    check(last.getItems().get(0).getId().equals(id) && last.getNextCursor() == null, last.toString());

    // Deleted, and gone.
    check(api.deleteTaskWithHttpInfo(user, id, null).getStatusCode() == 204, "the deletion");
    fails(404, "task-not-found", () -> api.getTask(user, id, null));
    fails(401, "unauthenticated", () -> connect(arguments[0], "x.y.z").getTask(user, id, null));
  }
}
