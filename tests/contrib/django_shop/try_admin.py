"""The checks of the admin in `test_django.py`, which run in the Django project with `admin_settings`."""

import json
import os
import sys

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "admin_settings"
django.setup()

from django.contrib.auth.models import Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from shop import tasks  # noqa: E402

from queueport import get_queue, task  # noqa: E402
from queueport.errors import BackendUnavailable  # noqa: E402

JOBS, DEAD = "/admin/queueport/job/", "/admin/queueport/deadletter/"

call_command("migrate", run_syncdb=True, verbosity=0)
call_command("makemigrations", check=True, dry_run=True, verbosity=0)
queue = get_queue()
live = tasks.count_orders.enqueue()
first, second, third = (queue.dead_letters.add(task.named("shop.lost").job(n), f"<b>lost {n}</b>") for n in range(3))


def client(name: str, *permissions: str) -> Client:
    """A browser in which a member of the staff with these permissions has logged in."""
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    found = Client()
    found.force_login(user)
    return found


def state(handle: object) -> str:
    return handle.status().state.value


viewer = client("viewer", "view_job", "view_deadletter")
operator = client("operator", "view_job", "view_deadletter", "retry_job", "discard_job")
stranger = client("stranger")
index, jobs, dead, one = (viewer.get(page).content.decode() for page in ("/admin/", JOBS, DEAD, f"{JOBS}{first.id}/"))
found = {
    "in the index": "Dead letters" in index and "Jobs" in index and "/add/" not in index,
    "jobs": [handle.id in jobs for handle in (live, first, second)],
    "dead letters": [handle.id in dead for handle in (live, first, second)],
    "filtered": live.id in viewer.get(JOBS, {"state": "queued", "queue": "default"}).content.decode(),
    "filtered out": live.id in viewer.get(JOBS, {"task": "other"}).content.decode(),
    "escaped": "&lt;b&gt;lost 0&lt;/b&gt;" in one and "<b>lost" not in one + jobs,
    "buttons of a viewer": 'name="action"' in one + jobs,
    "wrong filter": "state" in viewer.get(JOBS, {"state": "nonsense"}).content.decode(),
    "codes": [
        viewer.get(f"{JOBS}nosuch/").status_code,
        viewer.post(JOBS, {"action": "retry", "job": first.id}).status_code,
        operator.post(JOBS, {"action": "drop", "job": first.id}).status_code,
        stranger.get(JOBS).status_code,
        Client().get(JOBS).status_code,
        Client(enforce_csrf_checks=True).post(JOBS, {"action": "retry", "job": first.id}).status_code,
    ],
    "untouched": state(first),
}
operator.post(DEAD, {"action": "retry", "job": [first.id, second.id]})
operator.post(f"{DEAD}{third.id}/", {"action": "discard"})
found["after"] = [state(first), state(second), state(third)]
shown = operator.post(DEAD, {"action": "discard", "job": first.id}, follow=True).content.decode()
found["refused"] = f"ob &#x27;{first.id}&#x27; is not in the dead letters" in shown


def unavailable(*_: object) -> None:
    """Replaces a method of the store, which then does not answer."""
    raise BackendUnavailable("the store does not answer")


queue.operations.store.get = unavailable
down = viewer.get(f"{JOBS}{first.id}/")
found["store down"] = [down.status_code, "he store does not answer" in down.content.decode()]
json.dump(found, sys.stdout)
