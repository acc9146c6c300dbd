# The whole life of a task through the client that openapi-generator makes for Ruby, on Typhoeus.

require "json"
require "taskpact"

def check(holds, what = nil)
  raise "failed: #{what}" unless holds
end

def fails(status, name = nil)
  answer = yield
rescue Taskpact::ApiError => error
  check error.code == status, error
  check JSON.parse(error.response_body)["type"] == "tag:taskpact.example,2026:#{name}", error if name
else
  check false, answer
end

def connect(url, token)
  configuration = Taskpact::Configuration.new
  configuration.scheme, configuration.host = url.split("://")
  configuration.server_index = nil
  configuration.access_token = token
  Taskpact::TasksApi.new(Taskpact::ApiClient.new(configuration))
end

url, user, token = ARGV
api = connect(url, token)
milk = Taskpact::TaskCreate.new(title: "Buy oat milk", description: "two litres")

# Created once under its key, and read again only if it changed.
task, status, headers = api.create_task_with_http_info(user, milk, idempotency_key: "milk")
check [status, headers["ETag"], task.description] == [201, '"1"', "two litres"], task
check api.create_task(user, milk, idempotency_key: "milk") == task
another = Taskpact::TaskCreate.new(title: "Another")
fails(422, "idempotency-key-reused") { api.create_task(user, another, idempotency_key: "milk") }
check api.get_task(user, task.id) == task
fails(304) { api.get_task(user, task.id, if_none_match: '"1"') }

# Changed by the one who saw it last, and by nobody else.
patched = api.update_task(user, task.id, Taskpact::TaskPatch.new(description: nil), if_match: '"1"')
check patched.description.nil?, patched
late = Taskpact::TaskReplace.new(title: "Late")
fails(412, "precondition-failed") { api.replace_task(user, task.id, late, if_match: '"1"') }
replaced = api.replace_task(user, task.id, Taskpact::TaskReplace.new(title: "Buy milk"), if_match: '"2"')
check replaced.title == "Buy milk" && replaced.updated_at > task.updated_at, replaced
[true, false].each { |completed| check api.toggle_task_completion(user, task.id).completed == completed }

# Listed page by page, newest first.
bread = api.create_task(user, Taskpact::TaskCreate.new(title: "Bake bread"))
first = api.list_tasks(user, limit: 1)
last = api.list_tasks(user, limit: 1, cursor: first.next_cursor, completed: false)
check (first.items + last.items).map(&:id) == [bread.id, task.id]
check last.next_cursor.nil?

# Deleted, and gone.
check api.delete_task_with_http_info(user, task.id)[1] == 204
fails(404, "task-not-found") { api.get_task(user, task.id) }
fails(401, "unauthenticated") { connect(url, "x.y.z").get_task(user, task.id) }
