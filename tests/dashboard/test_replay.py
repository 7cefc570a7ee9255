"""Edit and replay: the form, its checks, hidden values, and the audit log."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest

from queueport import JobQueue, JobState, chain, task
from queueport.errors import BackendUnavailable
from queueport.testing.waiting import eventually
from queueport.web.dashboard import masking, text
from queueport.web.dashboard.masking import unmasked
from tests.dashboard.site import LOCAL, Page, Site, add, charge, login, work


@task(name="pages.fetch", queue="sums")
def fetch(url: str, headers: list[dict[str, str]] | None = None, *, api_key: str = "", options: Any = None) -> None:
    pass


@pytest.fixture
def site(queue: JobQueue) -> Site:
    return Site({"main": queue}, allow_actions=True)


def texts(page: Page) -> dict[str, Any]:
    """The values that the fields of the form contain."""
    return {name: json.loads(value) for name, value in page.texts.items()}


def send(site: Site, place: str, status: int = 303, **changed: Any) -> Any:
    """Open the form and send it, with other texts in some of its fields. Returns the response."""
    page = site.get(place)
    data = {"token": page.find("input", name="token")["value"], **page.texts}
    data |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in changed.items()}
    data = {name: value.replace("\n", "\r\n") for name, value in data.items()}  # as browsers send it
    response = site.client.post(page.find("form", method="post")["action"], data=data, headers={"Origin": LOCAL})
    assert response.status_code == status, response.text
    return response


def only_new(queue: JobQueue, *known: str) -> Any:
    (found,) = [job for job in queue.jobs() if job.id not in known]
    return found


def test_a_job_is_replayed_with_other_arguments(queue: JobQueue, site: Site) -> None:
    old = queue.enqueue(add, 1, b=2)
    work(queue)
    place = site.get(f"/main/jobs/{old.id}").links["Edit and replay"]
    page = site.get(place)
    assert f"with the task and the options of job {old.id}, which does not change" in page.text
    assert "The annotations of the task check the arguments." in page.text
    assert texts(page) == {"args": [1], "kwargs": {"b": 2}}
    assert queue.stats().totals.total == 1  # GET changes nothing
    response = send(site, place, args=[40])
    new = only_new(queue, old.id)
    assert (new.args, new.kwargs, new.queue, new.state) == ([40], {"b": 2}, "sums", JobState.QUEUED)
    assert response.headers["location"].startswith(f"/main/jobs/{new.id}?done=")
    shown = site.get(response.headers["location"])
    assert f"Job {new.id} was enqueued." in shown.text
    assert shown.links[old.id] == f"/main/jobs/{old.id}"  # the origin
    assert old.status().state is JobState.SUCCEEDED


def test_every_action_of_the_form_is_in_the_audit_log(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "queueport.audit")
    site, old = Site({"main": queue}, allow_actions=True), queue.enqueue(add, 1)
    place = f"/main/actions/replay?id={old.id}"
    send(site, place)
    send(site, place, args=["x"], status=400)
    shown = site.get("/audit").text
    assert f"replay job {old.id} with other arguments It failed: job" in shown
    assert f"replay job {old.id} Job {only_new(queue, old.id).id} was enqueued." in shown
    begun = [record.getMessage() for record in caplog.records if record.getMessage().endswith(": begins")]
    assert [line.partition(": ")[2] for line in begun] == [
        f"replay job {old.id}: begins",
        f"replay job {old.id} with other arguments: begins",
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"args": "[1"}, "The text of the positional arguments is not valid JSON"),
        ({"args": ""}, "The text of the positional arguments is not valid JSON"),
        ({"args": "[NaN]"}, "The text of the positional arguments is not valid JSON"),
        ({"args": '{"a": 1}'}, "The text of the positional arguments must be a JSON array."),
        ({"kwargs": "[]"}, "The text of the named arguments must be a JSON object."),
        ({"kwargs": '{"nosuch": 1}'}, "unexpected keyword argument 'nosuch'"),
        ({"args": '["<b>x"]'}, "argument 'a': Input should be a valid integer"),
    ],
)
def test_wrong_arguments_are_shown_with_the_reason_and_nothing_is_enqueued(
    queue: JobQueue, site: Site, changed: dict[str, str], sentence: str
) -> None:
    old = queue.enqueue(add, 1)
    page = Page(send(site, f"/main/actions/replay?id={old.id}", 400, **changed).text)
    assert sentence in page.text
    assert page.find("p", role="alert")["id"] == "problem"
    for name, sent in changed.items():
        assert page.texts[name] == sent  # what was typed is not lost
        assert page.find("textarea", name=name)["aria-describedby"] == "problem"
    assert queue.stats().totals.total == 1


def test_a_held_key_and_a_store_that_is_away_keep_the_typed_text(
    sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, old = Site({"main": sqlite}, allow_actions=True), sqlite.enqueue(add.using(key="k"), 1)
    place = f"/main/actions/replay?id={old.id}"
    page = Page(send(site, place, 400, args=[7]).text)
    assert "while job" in page.text
    assert texts(page)["args"] == [7]

    def lost(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("redis://:hunter2@host does not answer")

    monkeypatch.setattr(sqlite, "replay", lost)
    page = Page(send(site, place, 400, args=[8]).text)
    assert "It failed: redis://:***@host does not answer" in page.text
    assert texts(page)["args"] == [8]


def test_hidden_values_are_not_in_the_form_and_stay_in_the_job(queue: JobQueue, site: Site) -> None:
    headers = [{"name": "a", "token": "tok-1"}, {"name": "b", "token": "tok-2"}]
    old = queue.enqueue(fetch, "redis://:hunter2@host", headers, api_key="k-1", options={"n": 1, "password": {"p": 2}})
    place = f"/main/actions/replay?id={old.id}"
    page = site.get(place)
    for secret in ("tok-1", "tok-2", "hunter2", "k-1", '"p"'):
        assert secret not in "".join(page.words)
    shown = texts(page)
    assert shown["kwargs"] == {"api_key": masking.MASK, "options": {"n": 1, "password": masking.MASK}}
    shown["args"][1][0]["name"] = "c"
    send(site, place, args=shown["args"], kwargs={**shown["kwargs"], "options": {"n": 2, "password": masking.MASK}})
    new = only_new(queue, old.id)
    assert new.args == ["redis://:hunter2@host", [{"name": "c", "token": "tok-1"}, headers[1]]]
    assert new.kwargs == {"api_key": "k-1", "options": {"n": 2, "password": {"p": 2}}}


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("args", ["a", [{"token": masking.MASK}]], "args[1][0].token"),  # one of two objects was removed
        ("args", ["amqp://:***@elsewhere"], "args[0]"),
        ("kwargs", {"other": masking.MASK}, "kwargs.other"),
        ("kwargs", {"options": [masking.MASK]}, "kwargs.options[0]"),
    ],
)
def test_a_hidden_value_cannot_be_moved(queue: JobQueue, site: Site, field: str, value: Any, place: str) -> None:
    old = queue.enqueue(fetch, "redis://:hunter2@host", [{"token": "1"}, {"token": "2"}], api_key="k-1")
    page = Page(send(site, f"/main/actions/replay?id={old.id}", 400, **{field: value}).text)
    assert f"{place} contains a hidden value that was not there: write the value itself" in page.text
    assert queue.stats().totals.total == 1


def test_values_that_are_equal_in_python_are_different_edits() -> None:
    values: list[Any] = [True, 1.0, "1", None, [], {}]
    for edited in values:
        assert repr(unmasked([edited], [1], [1], "args")) == repr([edited])


def test_unprintable_characters_can_be_edited(queue: JobQueue, site: Site) -> None:
    hostile = "</textarea><script>alert(1)</script> \x00\x7f\u200b\u202e\U000e0001 \t end"
    old = queue.enqueue(charge, hostile)
    place = f"/main/actions/replay?id={old.id}"
    page = site.get(place)
    assert page.texts["args"].isprintable() or page.texts["args"].replace("\n", "").isprintable()
    assert texts(page)["args"] == [hostile]
    assert not page.has("script", src="")
    send(site, place, kwargs={"password": "new"})
    assert only_new(queue, old.id).args == [hostile]


def test_arguments_that_are_too_long_are_replayed_unchanged(
    queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "EDITABLE", 100)
    old = queue.enqueue(charge, "x" * 200, password="p")
    place = f"/main/actions/replay?id={old.id}"
    page = site.get(place)
    assert "The positional arguments are too long to be edited here. The new job has the same ones." in page.text
    assert page.texts.keys() == {"kwargs"}
    send(site, place, kwargs={})
    assert (only_new(queue, old.id).args, only_new(queue, old.id).kwargs) == (["x" * 200], {})


def test_a_large_form_is_read_and_a_larger_one_is_refused(sqlite: JobQueue) -> None:
    site, old = Site({"main": sqlite}, allow_actions=True), sqlite.enqueue(charge, "é" * 150_000)
    send(site, f"/main/actions/replay?id={old.id}", kwargs={"password": "new"})
    assert only_new(sqlite, old.id).args == ["é" * 150_000]
    response = site.client.post(f"/main/actions/replay?id={old.id}", data={"args": "x" * 5_000_000})
    assert response.status_code == 413


def test_without_the_code_of_the_task_the_form_says_so(queue: JobQueue, site: Site) -> None:
    old = queue.enqueue("elsewhere.run", 1)
    assert "This dashboard does not know the task" in site.get(f"/main/actions/replay?id={old.id}").text
    send(site, f"/main/actions/replay?id={old.id}", args=["any"])
    assert only_new(queue, old.id).args == ["any"]


def test_the_form_needs_its_token_and_allow_actions(queue: JobQueue, site: Site) -> None:
    old, other = queue.enqueue(login, "ann", "pa55", options={}), queue.enqueue(add, 1)
    place = f"/main/actions/replay?id={old.id}"
    token = site.get(place).find("input", name="token")["value"]
    data = {"token": token, "args": "[]", "kwargs": "{}"}
    evil = {"Origin": "https://evil.example"}
    other_place = f"/main/actions/replay?id={other.id}"
    for path, sent, headers in (
        (place, data, evil),
        (place, {**data, "token": "x"}, {}),
        (other_place, data, {}),
        (place, {"other": "x"}, {}),
    ):
        assert site.client.post(path, data=sent, headers=headers).status_code == 403
    reading = Site({"main": queue})
    assert "Edit and replay" not in reading.get(f"/main/jobs/{old.id}").links
    assert "read-only" in reading.get(place, 403).text
    assert reading.client.post(place, data=data).status_code == 403
    assert queue.stats().totals.total == 2
    site.get("/main/actions/replay", 400)
    site.get("/main/actions/replay?id=nosuch", 404)


def test_a_slow_replay_goes_on_in_the_background(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.actions.MOST_WAIT", 0.05)
    go, replay = threading.Event(), sqlite.replay

    def slow(*args: Any, **options: Any) -> Any:
        assert go.wait(30)
        return replay(*args, **options)

    monkeypatch.setattr(sqlite, "replay", slow)
    old = sqlite.enqueue(add, 1)
    site = Site(sqlite, allow_actions=True)
    place = send(site, f"/sqlite/actions/replay?id={old.id}").headers["location"]
    assert "goes on in the background" in site.get(place).text
    go.set()
    eventually(lambda: "was enqueued." in site.get(place).text)


def test_the_form_of_a_job_with_the_result_of_another_one_shows_all_arguments(queue: JobQueue, site: Site) -> None:
    first = queue.enqueue(chain(add.job(1, 2), add.using(pass_result=True).job(10)))
    (second,) = first.follow_ups
    place = site.get(f"/main/jobs/{second.id}").links["Edit and replay"]
    refused = site.client.get(place)
    assert refused.status_code == 400
    assert f"the first one is the result of job {first.id}, which is queued" in refused.text
    work(queue)
    assert texts(site.get(place)) == {"args": [3, 10], "kwargs": {}}
    send(site, place, args=[3, 20])
    work(queue)
    assert only_new(queue, first.id, second.id).result == 23
