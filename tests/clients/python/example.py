import sys

from taskpact_client import AuthenticatedClient
from taskpact_client.api.tasks import create_task, toggle_task_completion
from taskpact_client.models import Task, TaskCreate

_, url, user_id, token = sys.argv
with AuthenticatedClient(base_url=url, token=token) as client:
    created = create_task.sync_detailed(user_id, client=client, body=TaskCreate(title="Buy oat milk"))
    assert isinstance(created.parsed, Task), created.parsed
    tag = created.headers["ETag"]
    done = toggle_task_completion.sync(user_id, created.parsed.id, client=client, if_match=tag)
    print(done.title if isinstance(done, Task) else done)  # a problem: somebody else was faster
