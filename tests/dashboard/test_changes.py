"""The bulk changes: in the background, with numbers, a rate, an abort button and an audit log."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from queueport import JobQueue, JobState
from queueport.errors import BackendUnavailable
from queueport.spi.record import Record
from queueport.testing.waiting import eventually
from tests.dashboard.site import LOCAL, Page, Site, add, charge

RETRY = "/main/actions/retry-all?state=dead"


@pytest.fixture
def site(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The dashboard of a queue whose jobs are changed in pages of two."""
    monkeypatch.setattr("queueport.engine.bulk.PAGE", 2)
    return Site({"main": queue}, allow_actions=True)


def dead(queue: JobQueue, number: int = 5) -> None:
    for each in range(number):
        queue.dead_letters.add(charge.job(f"o-{each}"), "no")


class Gate:
    """Lets the decisions about `number` jobs pass, and all others when it is open."""

    def __init__(self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch, number: int = 2) -> None:
        self.open = threading.Event()
        self.asked, decide = 0, queue.operations.lifecycle.retry

        def gated(record: Record) -> Any:
            self.asked += 1
            assert self.asked <= number or self.open.wait(30)
            return decide(record)

        monkeypatch.setattr(queue.operations.lifecycle, "retry", gated)


def post(site: Site, path: str, **fields: str) -> Any:
    """Send the form of a page."""
    page = site.get(path)
    data = {"token": page.find("input", name="token")["value"], **fields}
    return site.client.post(page.find("form", method="post")["action"], data=data, headers={"Origin": LOCAL})


def started(site: Site, path: str = RETRY, **fields: str) -> str:
    """Start a change, and return the address of its page."""
    response = post(site, path, **fields)
    assert response.status_code == 303, response.text
    place: str = response.headers["location"]
    assert place.startswith("/main/changes/")
    return place


def test_a_bulk_change_goes_on_in_the_background_and_its_page_shows_the_numbers(
    queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "queueport.audit")
    monkeypatch.setattr("queueport.web.dashboard.changes.MOST_WAIT", 0.0)
    dead(queue)
    gate = Gate(queue, monkeypatch)
    place = started(site)
    page = site.wait(place, "Changed 2 Skipped 0 Matched 5")
    assert "Retry all on main" in page.text
    assert (page.find("progress")["value"], page.find("progress")["max"]) == ("2", "5")
    assert page.find("div", id="live")["hx-get"] == place
    audit = site.get("/audit")
    assert audit.links["retry 5 dead jobs"] == place
    gate.open.set()
    page = site.wait(place, "5 jobs were queued.")
    assert "Changed 5" in page.text
    assert not page.has("form", method="post")
    assert page.links["Back"] == "/main/jobs?state=dead"
    messages = [record.getMessage() for record in caplog.records if record.name == "queueport.audit"]
    assert messages == [
        "local (127.0.0.1) on main: retry 5 dead jobs: begins",
        "local (127.0.0.1) on main: retry 5 dead jobs: 5 jobs were queued.",
    ]


def test_a_change_is_aborted_after_its_page(
    queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "queueport.audit")
    monkeypatch.setattr("queueport.web.dashboard.changes.MOST_WAIT", 0.0)
    dead(queue)
    gate = Gate(queue, monkeypatch)
    place = started(site)
    site.wait(place, "Changed 2")
    assert post(site, place).headers["location"] == place
    page = site.get(place)
    assert "It ends after the present page." in page.text
    assert not page.has("form", method="post")
    gate.open.set()
    site.wait(place, "It was aborted by local. 4 jobs were queued.")
    assert queue.dead_letters.count() == 1
    assert caplog.records[-1].getMessage().endswith("retry 5 dead jobs: It was aborted by local. 4 jobs were queued.")


def test_a_change_is_not_aborted_by_another_website_or_without_the_token(
    queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueport.web.dashboard.changes.MOST_WAIT", 0.0)
    dead(queue)
    gate = Gate(queue, monkeypatch)
    place = started(site)
    token = site.wait(place, "Changed 2").find("input", name="token")["value"]
    foreign = {"Origin": "https://evil.example"}
    assert site.client.post(place, data={"token": token}, headers=foreign).status_code == 403
    assert site.client.post(place, data={"token": "x"}, headers={"Origin": LOCAL}).status_code == 403
    gate.open.set()
    site.wait(place, "5 jobs were queued.")


def test_skipped_jobs_are_counted(queue: JobQueue, site: Site) -> None:
    for text in ("a", "b", "c"):
        queue.dead_letters.add(charge.using(key="k").job(text), "no")
    place = started(site)
    assert "1 job was queued, and 2 skipped." in site.wait(place, "skipped.").text
    assert "Changed 1 Skipped 2" in site.get(place).text


def test_a_change_can_have_a_rate(queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[float]()
    monkeypatch.setattr(queue.operations.runtime, "wait", lambda _, seconds: waited.append(seconds))
    dead(queue, 3)
    place = started(site, rate="0.5")
    assert "limited to 0.5" in site.wait(place, "3 jobs were queued.").text
    assert sum(waited) > 5


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "many"])
def test_a_wrong_rate_changes_nothing(queue: JobQueue, site: Site, rate: str) -> None:
    dead(queue, 1)
    response = post(site, RETRY, rate=rate)
    assert response.status_code == 400
    assert "is not a number of jobs a second, so nothing was changed" in Page(response.text).text
    assert queue.dead_letters.count() == 1


def test_only_a_few_changes_run_at_the_same_time(queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.changes.MOST_WAIT", 0.0)
    dead(queue)
    gate = Gate(queue, monkeypatch, 0)
    places = {started(site) for _ in range(4)}
    assert len(places) == 4
    response = post(site, RETRY)
    assert response.status_code == 429
    assert "4 bulk changes run already, so nothing was changed" in Page(response.text).text
    gate.open.set()
    for place in places:
        eventually(lambda place=place: "It runs." not in site.get(place).text)  # type: ignore[misc]
    assert queue.dead_letters.count() == 0
    started(site, "/main/actions/cancel-all?state=queued")


def test_a_change_that_the_process_does_not_know_is_explained(queue: JobQueue, site: Site) -> None:
    dead(queue, 1)
    place = started(site)
    restarted = Site({"main": queue, "other": queue}, allow_actions=True)
    assert "does not know this bulk change" in restarted.get(place, 404).text
    dead(queue, 1)
    restarted.get(started(restarted).replace("/main/", "/other/"), 404)
    assert restarted.client.post(place, data={"token": "x"}).status_code == 404


def test_a_change_that_fails_keeps_what_it_has_changed(
    queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(queue)
    swap, calls = queue.operations.store.swap, 0

    def failing(swaps: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise BackendUnavailable("redis://:hunter2@host does not answer")
        return swap(swaps)

    monkeypatch.setattr(queue.operations.store, "swap", failing)
    place = started(site)
    text = "It failed: redis://:***@host does not answer 2 jobs were queued."
    page = site.wait(place, text)
    assert page.has("p", **{"class": "notice bad"})
    assert text in site.get("/audit").text
    assert queue.dead_letters.count() == 3


def test_the_changes_end_with_the_app(queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.changes.MOST_WAIT", 0.0)
    dead(queue)
    gate = Gate(queue, monkeypatch)
    with site.client:
        place = started(site)
        site.wait(place, "Changed 2")
        threading.Timer(0.1, gate.open.set).start()
    assert "It was aborted by the end of the dashboard's process. 4 jobs were queued." in site.get(place).text


def test_waiting_jobs_are_cancelled_or_run_by_their_state(queue: JobQueue, site: Site) -> None:
    queue.enqueue_many([add.job(1), add.using(delay=600).job(2), add.using(delay=600, queue="other").job(3)])
    place = site.get("/main/jobs?state=scheduled&queue=sums").links["Run all that match"]
    assert "run 1 scheduled job (queue sums)" in site.get(place).text
    site.wait(started(site, place), "1 job was queued.")
    place = site.get("/main/jobs?state=queued").links["Cancel all that match"]
    site.wait(started(site, place), "2 jobs were cancelled")
    assert (queue.count(JobState.SCHEDULED), queue.count(JobState.CANCELLED)) == (1, 2)
    place = site.get("/main/jobs?state=cancelled").links["Retry all that match"]
    site.wait(started(site, place), "2 jobs were queued.")
    assert not any("that match" in link for link in site.get("/main/jobs?state=succeeded").links)
    assert not any("that match" in link for link in site.get("/main/jobs").links)


@pytest.mark.parametrize(
    "path",
    ["cancel-all", "cancel-all?state=dead", "run-all?state=queued", "discard-all?state=queued", "run-all?state=x"],
)
def test_an_action_is_refused_for_a_state_that_it_does_not_change(queue: JobQueue, site: Site, path: str) -> None:
    site.get(f"/main/actions/{path}", 400)


def test_the_jobs_are_counted_for_a_limited_time(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.stores.sqlite.store.SCANNED", 2)
    monkeypatch.setattr("queueport.web.dashboard.actions.COUNT_SECONDS", 0.0)
    dead(sqlite)
    site = Site({"main": sqlite}, allow_actions=True)
    assert "retry 5 dead jobs" in site.get(RETRY).text  # the store counts these at once
    page = site.get(f"{RETRY}&text=o-")
    assert "This will retry at least 2 dead jobs (text o-)." in page.text
    assert "all that match will be changed" in page.text
    assert "Retry all, at least 2 jobs" in page.text
    page = site.get(f"{RETRY}&text=never")
    assert "at least 0 dead jobs" in page.text
    place = started(site, f"{RETRY}&text=o-")
    page = site.wait(place, "5 jobs were queued.")
    assert "Matched at least 2" in page.text
    assert not page.has("progress")


def test_the_page_keeps_the_latest_changes(queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.changes.KEPT", 2)
    dead(queue, 1)
    places = [started(site, "/main/actions/discard-all?queue=payments")]
    for _ in range(2):
        dead(queue, 1)
        places.append(started(site, "/main/actions/discard-all?queue=payments"))
    for place, status in zip(places, (404, 200, 200), strict=True):
        site.get(place, status)


def test_the_page_of_a_change_that_still_runs_is_kept(
    queue: JobQueue, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueport.web.dashboard.changes.KEPT", 2)
    monkeypatch.setattr("queueport.web.dashboard.changes.MOST_WAIT", 0.0)
    dead(queue)
    gate = Gate(queue, monkeypatch)
    running = started(site)
    site.wait(running, "Changed 2")
    for _ in range(3):
        queue.dead_letters.add(charge.job("o-late"), "late")
        later = started(site, "/main/actions/discard-all?text=o-late")
        site.wait(later, "was discarded.")
    assert "It runs." in site.get(running).text
    gate.open.set()
    site.wait(running, "jobs were queued.")
