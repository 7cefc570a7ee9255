"""The actions of the dashboard: confirmed, signed, recorded."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from queueport import JobQueue, JobState
from queueport.testing.waiting import eventually
from queueport.web.dashboard import dashboard_app
from queueport.web.dashboard.audit import AuditLog
from tests.dashboard.site import LOCAL, TASKS, Page, Site, add, charge, fail, released, wait, work
from tests.dashboard.test_access import basic


@pytest.fixture
def site(queue: JobQueue) -> Site:
    return Site({"main": queue}, allow_actions=True)


def dead_job(queue: JobQueue, text: str = "no") -> str:
    handle = queue.enqueue(fail, text)
    work(queue)
    assert handle.status().state is JobState.DEAD
    return handle.id


def test_without_allow_actions_nothing_can_be_changed(queue: JobQueue) -> None:
    job_id = dead_job(queue)
    site = Site({"main": queue})
    for place in ("/", "/main/jobs?state=dead", f"/main/jobs/{job_id}"):
        assert not any("/actions/" in link for link in site.get(place).links.values())
    for path in (f"/main/actions/retry?id={job_id}", "/main/actions/purge?queue=default"):
        assert "read-only" in site.get(path, 403).text
        assert site.client.post(path, data={"token": "x"}).status_code == 403
    assert queue.status(job_id).state is JobState.DEAD


def test_a_dead_job_is_retried_after_a_confirmation(queue: JobQueue, site: Site) -> None:
    job_id = dead_job(queue)
    page = site.get(f"/main/jobs/{job_id}")
    asked = site.get(page.links["Retry"])
    assert f"This will retry job {job_id}." in asked.text
    assert queue.status(job_id).state is JobState.DEAD  # GET changes nothing
    response = site.confirm(page.links["Retry"])
    assert response.status_code == 303
    assert "1 job was queued." in site.get(response.headers["location"]).text
    assert queue.status(job_id).state is JobState.QUEUED


@pytest.mark.parametrize(("action", "label"), [("discard", "Discard"), ("retry", "Retry")])
def test_an_action_that_the_state_does_not_allow_is_not_offered(
    queue: JobQueue, site: Site, action: str, label: str
) -> None:
    job_id = queue.enqueue(add, 1).id
    assert label not in site.get(f"/main/jobs/{job_id}").links
    page = site.get(f"/main/actions/{action}?id={job_id}")
    assert "does not allow this" in page.text
    assert not page.has("form", method="post")


def test_waiting_jobs_are_cancelled_and_scheduled_ones_run_now(queue: JobQueue, site: Site) -> None:
    waiting, later = queue.enqueue(add, 1), queue.enqueue(add.using(delay=600), 2)
    site.confirm(site.get(f"/main/jobs/{waiting.id}").links["Cancel"])
    site.confirm(site.get(f"/main/jobs/{later.id}").links["Run now"])
    assert waiting.status().state is JobState.CANCELLED
    assert later.status().state is JobState.QUEUED


def test_a_running_job_is_cancelled(queue: JobQueue, site: Site) -> None:
    worker = queue.worker(tasks=TASKS, threads=1)
    worker.start()
    try:
        handle = queue.enqueue(wait)
        eventually(lambda: handle.status().progress is not None, 20)
        site.confirm(site.get(f"/main/jobs/{handle.id}").links["Cancel"])
        released.set()
        eventually(lambda: handle.status().finished, 20)
        assert handle.status().state is JobState.CANCELLED
    finally:
        released.set()
        worker.stop()


def test_a_dead_job_is_discarded(queue: JobQueue, site: Site) -> None:
    job_id = dead_job(queue)
    site.confirm(site.get(f"/main/jobs/{job_id}").links["Discard"])
    assert queue.status(job_id).reason == "discarded"


def test_a_queue_is_purged(queue: JobQueue, site: Site) -> None:
    queue.enqueue_many([add.job(1), add.using(delay=60).job(2), fail.job("other queue")])
    place = site.get("/").links["Purge sums"]
    assert "cancel 2 waiting jobs (queue sums)" in site.get(place).text
    assert "2 jobs were cancelled." in site.get(site.confirm(place).headers["location"]).text
    stats = queue.stats().queues
    assert (stats["sums"].cancelled, stats["default"].queued) == (2, 1)


def test_a_queue_is_paused_and_resumed(queue: JobQueue, site: Site) -> None:
    handle = queue.enqueue(add, 1)
    page = site.get("/")
    assert "Resume sums" not in page.links
    assert "This will pause the queue sums." in site.get(page.links["Pause sums"]).text
    assert queue.paused() == {}
    assert "The queue sums is paused." in site.get(site.confirm(page.links["Pause sums"]).headers["location"]).text
    assert queue.paused()["sums"].reason == "paused by local with the dashboard"
    assert "in this state already" in site.get(page.links["Pause sums"]).text
    page = site.wait("/", "sums paused")
    assert page.find("span", **{"class": "paused"})["title"] == "paused by local with the dashboard"
    site.confirm(page.links["Resume sums"])
    assert queue.paused() == {}
    work(queue)
    assert handle.status().state is JobState.SUCCEEDED


def test_the_overview_shows_the_limit_of_a_queue(queue: JobQueue, site: Site) -> None:
    queue.limit("mails", concurrency=5, rate="10/s")
    assert "mails at most 5 at a time, 10/s" in site.get("/").text
    queue.limit("mails")
    site.wait("/", "No queue has been used yet.")


def test_all_dead_jobs_of_a_filter_are_retried(queue: JobQueue, site: Site) -> None:
    for number in range(3):
        queue.dead_letters.add(charge.job(f"o-{number}"), "no")
    job_id = dead_job(queue)
    place = site.get("/main/jobs?state=dead&task=pages.charge").links["Retry all that match"]
    assert "retry 3 dead jobs (task pages.charge)" in site.get(place).text
    assert "3 jobs were queued." in site.get(site.confirm(place).headers["location"]).text
    assert queue.stats().queues["payments"].queued == 3
    assert queue.status(job_id).state is JobState.DEAD


def test_all_dead_jobs_of_a_queue_are_discarded(queue: JobQueue, site: Site) -> None:
    queue.dead_letters.add(charge.job("o-1"), "no")
    job_id = dead_job(queue)
    place = site.get("/main/jobs?state=dead&queue=payments").links["Discard all that match"]
    site.confirm(place)
    assert queue.stats().queues["payments"].cancelled == 1
    assert queue.status(job_id).state is JobState.DEAD


@pytest.mark.parametrize(
    "query", ["tag=a", "key=k", "text=o-1", "since=2h&text=o-1", "until=2h", "until=2999-01-01&tag=a"]
)
@pytest.mark.parametrize("label", ["Retry all that match", "Discard all that match"])
def test_an_action_on_a_filter_changes_the_jobs_that_the_page_shows(
    queue: JobQueue, site: Site, label: str, query: str
) -> None:
    job_id = queue.dead_letters.add(charge.using(tags=("a",), key="k").job("o-1"), "no").id
    other = queue.dead_letters.add(charge.using(tags=("b",)).job("o-2"), "no").id
    page = site.get(f"/main/jobs?state=dead&{query}")
    assert other not in page.text
    if job_id in page.text:
        site.confirm(page.links[label])
    else:  # no job died more than two hours ago
        assert "no job matches now" in site.get(f"/main/actions/retry-all?{query}").text
    assert (queue.status(job_id).state is JobState.DEAD) is (job_id not in page.text)
    assert queue.status(other).state is JobState.DEAD


def test_wrong_addresses_of_actions_are_refused(queue: JobQueue, site: Site) -> None:
    for path, status in [
        ("/main/actions/nosuch", 404),
        ("/main/actions/retry", 400),
        ("/main/actions/purge", 400),
        ("/main/actions/purge?queue=sums&task=pages.add", 400),  # `JobQueue.purge` has no such filter
        ("/main/actions/purge?queue=sums&tag=a", 400),
        ("/main/actions/retry-all?since=soon", 400),
        ("/main/actions/pause", 400),
        ("/main/actions/pause?queue=a+b", 400),
        ("/main/actions/resume?queue=a+b", 400),
        ("/main/actions/retry?id=nosuch", 404),
        ("/nosuch/actions/purge?queue=a", 404),
    ]:
        site.get(path, status)


class Attempt:
    """A form that was not confirmed as it must be, and must change nothing."""

    def __init__(self, queue: JobQueue, **options: Any) -> None:
        self.queue = queue
        self.job_id = dead_job(queue)
        self.other_id = dead_job(queue, "other")
        self.site = Site({"main": queue}, allow_actions=True, **options)
        self.path = f"/main/actions/retry?id={self.job_id}"
        self.token = self.site.get(self.path).find("input", name="token")["value"]

    def refused(self, status: int = 403, path: str | None = None, **options: Any) -> Page:
        given = {"data": {"token": self.token}, **options}
        response = self.site.client.post(path or self.path, **given)
        assert response.status_code == status, response.text
        for job_id in (self.job_id, self.other_id):
            assert self.queue.status(job_id).state is JobState.DEAD
        return Page(response.text)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:8484.evil.example", ""]
)
def test_a_form_of_another_website_changes_nothing(sqlite: JobQueue, origin: str) -> None:
    assert "another website" in Attempt(sqlite).refused(headers={"Origin": origin}).text


def test_a_request_that_the_browser_calls_cross_site_changes_nothing(sqlite: JobQueue) -> None:
    Attempt(sqlite).refused(headers={"Sec-Fetch-Site": "cross-site"})


def test_a_form_without_its_token_or_cookie_changes_nothing(sqlite: JobQueue) -> None:
    attempt = Attempt(sqlite)
    stamp, _, signature = attempt.token.partition(".")
    for token in ("", "x", ".", signature, f"{stamp}.", f"{int(stamp) + 9}.{signature}", f"nan.{signature}", "é.ü"):
        attempt.refused(data={"token": token})
    attempt.refused(data={"other": "x"})
    attempt.refused(path=f"/main/actions/retry?id={attempt.other_id}")  # the token of another job
    attempt.refused(path=f"/main/actions/discard?id={attempt.job_id}")  # the token of another action
    attempt.refused(415, data=None, json={"token": attempt.token})
    attempt.refused(413, data={"token": "x" * 20_000})
    attempt.site.client.cookies.set("queueport_confirm", "another", domain="127.0.0.1")
    attempt.refused()
    attempt.site.client.cookies.clear()
    attempt.refused()


def test_a_form_is_valid_for_an_hour(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt(sqlite)
    now = time.time()
    monkeypatch.setattr("queueport.web.dashboard.access.time.time", lambda: now + 3700)
    assert "older than an hour" in attempt.refused().text
    monkeypatch.setattr("queueport.web.dashboard.access.time.time", lambda: now + 3500)
    assert attempt.site.client.post(attempt.path, data={"token": attempt.token}).status_code == 303


def test_the_form_of_another_user_changes_nothing(sqlite: JobQueue) -> None:
    attempt = Attempt(sqlite, authenticate=lambda request: request.headers.get("x-user", "ann"))
    attempt.refused(headers={"X-User": "bob"})


def test_the_cookie_is_not_sent_by_other_websites_nor_read_by_scripts(sqlite: JobQueue) -> None:
    job_id = dead_job(sqlite)
    for base, secure in ((LOCAL, False), ("https://localhost", True)):
        client = TestClient(dashboard_app(sqlite, allow_actions=True), base, client=("127.0.0.1", 1))
        cookie = client.get(f"/sqlite/actions/retry?id={job_id}").headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert ("secure" in cookie) is secure


def test_processes_with_the_same_secret_accept_each_others_forms(sqlite: JobQueue) -> None:
    job_id = dead_job(sqlite)
    one, two, other = (Site(sqlite, allow_actions=True, secret=secret) for secret in ("s", "s", "t"))
    path = f"/sqlite/actions/retry?id={job_id}"
    token = one.get(path).find("input", name="token")["value"]
    for site, status in ((other, 403), (two, 303)):
        site.client.cookies = one.client.cookies
        assert site.client.post(path, data={"token": token}).status_code == status


def test_every_action_is_in_the_audit_log(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "queueport.audit")
    job_id = dead_job(queue)
    site = Site({"main": queue}, allow_actions=True, password="pw")
    headers = basic("ann\x1b", "pw")
    assert "Nobody has changed a job" in site.get("/audit", headers=headers).text
    site.confirm(f"/main/actions/retry?id={job_id}", headers=headers)
    text = site.get("/audit", headers=headers).text
    assert f"ann\\x1b 127.0.0.1 main retry job {job_id} 1 job was queued." in text
    begun, ended = [record for record in caplog.records if record.name == "queueport.audit"]
    assert begun.getMessage() == f"ann\\x1b (127.0.0.1) on main: retry job {job_id}: begins"
    assert ended.getMessage() == f"ann\\x1b (127.0.0.1) on main: retry job {job_id}: 1 job was queued."
    assert (vars(ended)["user"], vars(ended)["action"]) == ("ann\x1b", f"retry job {job_id}")


def test_an_action_that_fails_is_in_the_audit_log(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    site, job_id = Site(sqlite, allow_actions=True), dead_job(sqlite)
    holder = sqlite.enqueue(fail.using(key="k"), "no").id
    work(sqlite)
    assert sqlite.status(holder).state is JobState.DEAD
    sqlite.enqueue(fail.using(key="k", delay=60), "holds the key")
    page = site.get(site.confirm(f"/sqlite/actions/retry?id={holder}").headers["location"])
    assert "It failed:" in page.text
    assert sqlite.status(holder).state is JobState.DEAD

    def broken(job: str) -> None:
        raise RuntimeError("redis://:hunter2@host is broken")

    monkeypatch.setattr(sqlite, "retry", broken)
    page = site.get(site.confirm(f"/sqlite/actions/retry?id={job_id}").headers["location"])
    assert "It failed: RuntimeError: redis://:***@host is broken" in page.text


def test_a_long_action_goes_on_in_the_background(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.actions.MOST_WAIT", 0.05)
    go, resume = threading.Event(), sqlite.resume

    def slow(name: str) -> bool:
        assert go.wait(30)
        return resume(name)

    monkeypatch.setattr(sqlite, "resume", slow)
    sqlite.pause("sums")
    site = Site(sqlite, allow_actions=True)
    place = site.confirm("/sqlite/actions/resume?queue=sums").headers["location"]
    assert "goes on in the background" in site.get(place).text
    go.set()
    eventually(lambda: "The queue sums is resumed." in site.get(place).text)


def test_the_audit_log_keeps_the_latest_500_actions() -> None:
    log = AuditLog()
    for number in range(600):
        log.end(log.begin("ann", "127.0.0.1", "memory", f"retry job {number}"), "done")
    assert [entry.what for entry in log.entries()] == [f"retry job {number}" for number in range(599, 99, -1)]
