"""The pages of the dashboard, on memory and SQLite with real workers."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from queueport import JobQueue, JobState, Retry, Stats, chain, current_job, get_queue, task
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.stats import WorkerStats
from queueport.testing.waiting import eventually
from queueport.web.dashboard import dashboard_app
from queueport.web.dashboard.sources import Source
from tests.dashboard.site import TASKS, Page, Site, add, charge, fail, login, released, wait, work


def test_the_overview_counts_the_jobs_of_each_queue_and_state(queue: JobQueue) -> None:
    queue.enqueue_many([add.job(1), add.job(2), fail.job("no")])
    work(queue)
    queue.enqueue_many([add.job(3), add.using(delay=60).job(4)])
    page = Site(queue).get("/")
    tiles = {label.rstrip("0123456789"): label[len(label.rstrip("0123456789")) :] for label in page.links}
    found = {state.value: int(tiles[state.value]) for state in JobState}
    assert found == {
        "scheduled": 1, "queued": 1, "running": 0, "retrying": 0, "succeeded": 2, "dead": 1, "cancelled": 0,
    }  # fmt: skip
    assert {"sums", "default"} <= page.links.keys()
    assert "Jobs wait in the queue sums, and no live worker takes jobs from it." in page.text
    assert "3 in all" in page.text  # jobs that have ended
    row = page.text.partition(" default ")[2].split()
    assert row[6:8] == ["1", "1"]  # jobs that have ended, and attempts that have failed, in the last hour


def test_the_overview_shows_what_each_worker_runs(queue: JobQueue) -> None:
    worker = queue.worker(tasks=TASKS, threads=1)
    worker.start()
    try:
        handle = queue.enqueue(wait)
        site = Site(queue)
        page = site.wait("/", "pages.wait")
        assert worker.name in page.text
        (link,) = [place for label, place in page.links.items() if label.startswith("pages.wait")]
        assert link == f"/{queue.backend}/jobs/{handle.id}"
        running = site.wait(link, "packing")
        assert running.find("progress") == {"value": "3", "max": "10", "aria-label": "Progress"}
        assert running.find("div", id="live")["hx-trigger"] == "every 2s"
        released.set()
        handle.result(10)
        assert "hx-trigger" not in site.get(link).find("div", id="live")
    finally:
        released.set()
        worker.stop()


def test_charts_show_how_fast_jobs_end(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.sources.FRESH", 0.0)
    monkeypatch.setattr("queueport.web.dashboard.sources.SAMPLE_EVERY", 0.0)
    site = Site(queue)
    assert "Jobs ended \u2013/s" in site.get("/").text  # one reading is no rate
    queue.enqueue_many([add.job(number) for number in range(20)])
    work(queue)
    page = site.get("/")
    rate = page.text.partition("Jobs ended ")[2].partition("/s")[0]
    assert float(rate) > 0
    assert "Failed attempts 0.0/s" in page.text


def answering(page: Page) -> int:
    """The number of backends that the page shows as answering."""
    return sum(given.get("class") == "health ok" for _, given in page.elements)


def test_backends_are_side_by_side_and_one_that_is_away_hides_no_other(tmp_path: Path) -> None:
    lost = tmp_path / "lost.db"
    with get_queue("memory://") as memory, get_queue(f"sqlite:///{lost}?call_timeout=1") as away:
        memory.enqueue(add, 1)
        away.enqueue(add, 2)
        site = Site({"main": memory, "second": away})
        page = site.get("/")
        assert answering(page) == 2
        lost.unlink()
        page = site.wait("/", "no answer")
        assert answering(page) == 1
        assert "lost.db" in page.text
        assert page.links["sums"] == "/main/jobs?queue=sums"
        assert "No answer" in site.get("/second/jobs", 503).text


def readers() -> int:
    """The number of threads that read the numbers of a backend now."""
    return sum(thread.name == "queueport-dashboard" for thread in threading.enumerate())


def test_a_backend_that_hangs_does_not_hold_up_the_page(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    read = sqlite.operations.store.stats

    def slow() -> Any:
        assert answers.wait(30)
        return read()

    monkeypatch.setattr(sqlite.operations.store, "stats", slow)
    monkeypatch.setattr("queueport.web.dashboard.sources.MOST_WAIT", 0.1)
    with get_queue("memory://") as memory:
        site = Site([memory, sqlite])
        for _ in range(5):
            page = site.get("/")
            assert "has not answered within" in page.text
            assert answering(page) == 1
        eventually(lambda: readers() == 1)  # five pages, and one thread that waits
        answers.set()
        eventually(lambda: "has not answered" not in site.get("/").text)


def test_backends_that_hang_hold_up_the_page_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.sources.MOST_WAIT", 0.5)
    answers = threading.Event()

    def hang() -> Stats:
        assert answers.wait(30)
        raise BackendUnavailable("too late")

    with ExitStack() as stack:
        queues = [stack.enter_context(get_queue(f"memory://hang{number}")) for number in range(12)]
        for queue in queues:
            monkeypatch.setattr(queue, "stats", hang)
        begun = time.monotonic()
        page = Site(queues).get("/")
        took = time.monotonic() - begun
        answers.set()
    assert answering(page) == 0
    assert took < 4  # not 12 times 0.5 s


def test_numbers_are_read_again_after_a_thread_could_not_be_started(
    sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("main", sqlite)

    def broken(*_: Any, **__: Any) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("queueport.web.dashboard.sources.threading.Thread", broken)
        with pytest.raises(RuntimeError, match="can't start"):
            source.start()
    assert source.snapshot().stats is not None


def test_jobs_are_filtered_by_state_queue_task_and_error(queue: JobQueue) -> None:
    dead = queue.enqueue(charge.using(retry=Retry(max_attempts=1)), "o-1").id
    other = queue.enqueue(fail, "no").id
    done = queue.enqueue(add, 1).id
    again = queue.enqueue(charge.using(retry=Retry(max_attempts=2, initial=600)), "o-2").id
    work(queue)
    site, jobs = Site(queue), f"/{queue.backend}/jobs"

    def found(query: str) -> set[str]:
        text = site.get(f"{jobs}{query}").text
        return {job_id for job_id in (dead, other, done, again) if job_id in text}

    assert found("") == {dead, other, done, again}
    assert found("?state=dead") == {dead, other}
    assert found("?state=succeeded&queue=") == {done}
    assert found("?queue=payments") == {dead, again}
    assert found("?task=pages.fail") == {other}
    assert found("?error=OSError") == {dead}  # ConnectionResetError is an OSError; without a state, only dead jobs
    assert found("?error=OSError&state=retrying") == {again}
    assert found("?error=OSError&queue=default") == set()
    assert "No job matches." in site.get(f"{jobs}?task=nosuch").text
    assert "there is no state 'lost'" in site.get(f"{jobs}?state=lost", 400).text
    assert "is not a queue name" in site.get(f"{jobs}?queue=a%20b", 400).text


def test_jobs_are_filtered_by_tag_key_time_and_text(queue: JobQueue) -> None:
    tagged = queue.enqueue(add.using(tags=("vip",)), 1).id
    keyed = queue.enqueue(add.using(key="k-1"), 17, b=3).id
    site, jobs = Site(queue), f"/{queue.backend}/jobs"

    def found(query: str) -> set[str]:
        text = site.get(f"{jobs}?{query}").text
        return {job_id for job_id in (tagged, keyed) if job_id in text}

    assert found("tag=vip") == {tagged}
    assert found("key=k-1") == {keyed}
    assert found("tag=vip&key=k-1") == set()
    assert found("since=2h") == found("until=2999-01-31T08:00Z") == {tagged, keyed}
    assert found("until=2h") == found("since=2999-01-31T08:00") == set()
    assert found("text=%22b%22:3") == {keyed}
    assert found("text=%22b%22:3&tag=vip") == set()
    page = site.get(f"{jobs}?text=%22b%22:3")
    assert page.find("input", name="text")["value"] == '"b":3'
    assert "hx-get" not in page.find("div", id="live")  # a slow search is not repeated
    for wrong in ("since=soon", "until=2026-99-01", "since=-1", "since=nan", "until=9e99"):
        assert "is not a time" in site.get(f"{jobs}?{wrong}", 400).text


@pytest.mark.parametrize("query", ["tag=vip&since=2h", "text=%5B1"])
def test_pages_keep_the_filter(queue: JobQueue, query: str) -> None:
    handles = queue.enqueue_many([add.using(tags=("vip",)).job(100 + n) for n in range(60)])
    queue.enqueue(add, 2)
    site = Site(queue)
    first = site.get(f"/{queue.backend}/jobs?{query}")
    second = site.get(first.links["Older"])
    shown = [given["href"].rpartition("/")[2] for page in (first, second) for tag, given in page.elements
             if tag == "a" and "/jobs/" in given["href"]]  # fmt: skip
    assert shown == [handle.id for handle in reversed(handles)]
    assert "Older" not in second.links


def test_a_search_for_a_text_is_stopped_and_can_be_continued(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.pages.TEXT_SECONDS", 0.0)
    oldest = queue.enqueue(add, 4242).id
    queue.enqueue_many([add.job(1) for _ in range(500)])
    site = Site(queue)
    page = site.get(f"/{queue.backend}/jobs?text=4242")
    assert "The search for the text was stopped" in page.text
    assert "No job matches." not in page.text
    assert oldest in site.get(page.links["Search older jobs"]).text
    site.get(f"/{queue.backend}/jobs?text=4242&after=nosuch", 404)


def test_pages_of_jobs_contain_each_job_once_newest_first(queue: JobQueue) -> None:
    ids = [handle.id for handle in queue.enqueue_many([add.job(number) for number in range(120)])]
    site = Site(queue)
    place, seen, pages = f"/{queue.backend}/jobs?task=pages.add", list[str](), 0
    page = site.get(place)
    while place:
        page = site.get(place)
        links = [given["href"] for tag, given in page.elements if tag == "a"]
        seen += [link.rpartition("/")[2] for link in links if "/jobs/" in link]
        pages += 1
        place = page.links.get("Older", "")
    assert seen == ids[::-1]
    assert pages == 3
    assert page.links["Newest"] == f"/{queue.backend}/jobs?task=pages.add"


def test_the_page_of_a_job_shows_all_that_its_record_contains(queue: JobQueue) -> None:
    options = charge.using(retry=Retry(max_attempts=2, initial=0.01), key="o-1", headers={"tenant": "acme"})
    handle = queue.enqueue(options, "o-1")

    def ended() -> bool:
        work(queue)
        return handle.status().finished

    eventually(ended)
    page = Site(queue).get(f"/{queue.backend}/jobs/{handle.id}")
    for part in ("pages.charge", "dead", handle.id, "payments", "o-1", "tenant acme", "Failures 2 of 2", "attempt 1"):
        assert part in page.text
    assert page.text.count("Traceback (most recent call last)") == 2
    assert "the bank hung up on o-1" in page.text
    assert page.text.index("Attempt 1: ConnectionResetError") < page.text.index("Attempt 2: ConnectionResetError")
    assert page.text.index("Enqueued") < page.text.index("Attempt 2 started") < page.text.index("Dead")
    waiting = queue.enqueue(add.using(delay=timedelta(hours=2)), 1)
    page = Site(queue).get(f"/{queue.backend}/jobs/{waiting.id}")
    assert "Next attempt in 2 h" in page.text
    done = queue.enqueue(add, 40, b=2)
    work(queue)
    page = Site(queue).get(f"/{queue.backend}/jobs/{done.id}")
    assert "[ 40 ]" in page.text
    assert '{ "b": 2 }' in page.text
    assert "Result 42" in page.text


def test_secrets_are_masked(sqlite: JobQueue) -> None:
    job = login.using(headers={"Authorization": "Bearer xyz", "trace": "t-1"})
    options = {"api_key": "k-1", "nested": [{"Client-Secret": "s-1", "plain": "shown"}]}
    handle = sqlite.enqueue(job, "ann", "pa55", options=options)
    named = sqlite.enqueue(login.using(), user="bob", password="pa55", options={"dsn": "amqp://u:pa55@host/"})
    work(sqlite)
    text = "".join(Site(sqlite).get(f"/sqlite/jobs/{job_id}").text for job_id in (handle.id, named.id))
    for secret in ("pa55", "k-1", "s-1", "tok-1", "hunter2", "Bearer", "xyz"):
        assert secret not in text
    for shown in ("ann", "bob", "shown", "t-1", "amqp://u:***@host/", "•••"):
        assert shown in text
    own = Site(sqlite, mask="user").get(f"/sqlite/jobs/{handle.id}").text
    assert "ann" not in own
    assert "pa55" in own


@task(name="pages.connect", queue="sums")
def connect(url: str) -> None:
    current_job().progress(1, 2, f"connecting to {url}")


@task(name="pages.unlock", queue="sums")
def unlock(*tokens: str) -> None:
    pass


def test_every_value_of_a_masked_argument_is_masked(sqlite: JobQueue) -> None:
    page = Site(sqlite).get(f"/sqlite/jobs/{sqlite.enqueue(unlock, 'first', 'second').id}")
    assert "first" not in page.text
    assert "second" not in page.text


@task(name="pages.enter", queue="sums")
def enter(user: str, password: str, note: str = "") -> None:
    pass


def test_secrets_of_a_job_that_gets_a_result_are_masked(sqlite: JobQueue) -> None:
    first = sqlite.enqueue(chain(add.job(1, 2), enter.using(pass_result=True).job("hunter2", "hello")))
    site = Site(sqlite, allow_actions=True)
    job_id = first.follow_ups[0].id
    assert '[ "•••", "hello" ]' in site.get(f"/sqlite/jobs/{job_id}").text
    form = site.get(f"/sqlite/actions/replay?id={job_id}", 400)  # the result is not known yet
    assert json.loads(form.texts["args"]) == ["•••", "hello"]
    work(sqlite)
    form = site.get(f"/sqlite/actions/replay?id={job_id}")
    assert json.loads(form.texts["args"]) == [3, "•••", "hello"]
    rest: Any = unlock.using(pass_result=True)
    last = sqlite.enqueue(chain(add.job(1, 2), rest.job("second", "third"))).follow_ups[0]
    assert '[ "•••", "•••" ]' in site.get(f"/sqlite/jobs/{last.id}").text


def test_passwords_of_urls_are_hidden_in_all_texts(sqlite: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.web.dashboard.sources.FRESH", 0.0)
    url = "redis://:hunter2@host"
    handle = sqlite.enqueue(connect.using(key=url), url)
    sqlite.worker(tasks=[connect], burst=True).run()
    sqlite.pause("sums", reason=f"{url} is down")
    site = Site(sqlite)
    shown = [site.client.get(path).text for path in ("/", "/sqlite/jobs", f"/sqlite/jobs/{handle.id}")]

    def broken() -> Stats:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(sqlite, "stats", broken)
    shown.append(site.client.get("/").text)
    assert "redis://:***@host is down" in shown[0]
    assert "connecting to redis://:***@host" in shown[2]
    assert "no route to redis://:***@host" in shown[3]
    assert "hunter2" not in "".join(shown)


NAMES = [
    "<script>alert(1)</script>",
    '"><img/src=x/onerror=alert(1)>',
    "javascript:alert(1)",
    "{{7*7}}",
    "'-alert(1)-'",
]
TEXTS = [
    *NAMES,
    "</pre></main><script src=//evil></script>",
    "nul \x00 bell \x07 escape \x1b[31m",
    "bidi \u202e\u2066 hidden \u200b",
    "surrogate \ud800",
    "x" * 100_000,
    '" hx-get="/x" hx-trigger="load',
]


def test_hostile_texts_are_shown_as_text(sqlite: JobQueue) -> None:
    """Names, arguments, results, errors, headers, progress and keys."""
    ids = [sqlite.enqueue(task.named(name, key=name), *NAMES).id for name in NAMES]
    clean = [text.encode(errors="backslashreplace").decode() for text in TEXTS]
    for text, kept in zip(TEXTS, clean, strict=True):
        ids.append(sqlite.enqueue(fail.using(headers={"h": kept}), kept).id)
        ids.append(sqlite.dead_letters.add(fail.job(kept), text).id)
    work(sqlite)
    site = Site(sqlite, allow_actions=True)
    places = ["/", "/sqlite/jobs", "/audit", *(f"/sqlite/jobs/{job_id}" for job_id in ids)]
    places += [f"/sqlite/actions/retry?id={job_id}" for job_id in ids]
    for page in [*map(site.get, places), *hostile_addresses(site)]:
        check_harmless(page)
        for character in "\x00\x07\x1b\u202e\u2066\u200b\ud800":
            assert character not in "".join(page.words)
    shown = site.get(f"/sqlite/jobs/{ids[0]}").text
    assert shown.count("<script>alert(1)</script>") >= 2  # the task's name and the argument
    assert "\\u202e" in site.get(f"/sqlite/jobs/{ids[len(NAMES) + 2 * 7]}").text


def test_hostile_names_of_queues_and_workers_are_shown_as_text() -> None:
    """A process that can write to the store can announce a worker with any names."""
    with get_queue("memory://") as queue:
        names = (*NAMES, "surrogate \ud800")
        queue.operations.store.announce(WorkerStats(names[-1], names, names, datetime.now(UTC)), 60.0)
        page = Site(queue, allow_actions=True).get("/")
    check_harmless(page)
    assert {*NAMES, "surrogate \\ud800"} <= page.links.keys()


def hostile_addresses(site: Site) -> list[Page]:
    """Pages whose address contains hostile text."""
    pages = []
    for text in NAMES:
        query = {"task": text, "error": text}
        pages += [
            site.get("/sqlite/jobs", params=query),
            site.get("/sqlite/jobs", 400, params={"queue": text}),
            site.get("/sqlite/jobs", 400, params={"state": text}),
            site.get("/sqlite/actions/retry-all", params=query),
            site.get("/find", 404, params={"id": text}),
            site.get("/audit", params={"done": text}),
            site.get(f"/{text.replace('/', '%2F')}x", 404),
        ]
    return pages


def check_harmless(page: Page) -> None:
    """The page has no script, style, frame or handler besides its own, and refreshes only itself."""
    for tag, given in page.elements:
        assert tag not in ("style", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") or name == "style" for name in given)
        assert tag != "script" or given["src"].startswith("/-/static/")
        assert tag != "img" or given["src"].startswith("/-/static/")
        assert given.get("hx-get", "/").startswith("/")
        assert "hx-trigger" not in given or given["id"] == "live"
        for place in (given.get("href"), given.get("action")):
            assert place is None or place.startswith(("/", "#"))
            assert place is None or not place.startswith("//")


def test_a_deeply_nested_argument_does_not_break_its_page(sqlite: JobQueue) -> None:
    nested: Any = "end"
    for _ in range(180):
        nested = [nested]
    handle = sqlite.enqueue("other.task", nested)
    assert "end" in Site(sqlite).get(f"/sqlite/jobs/{handle.id}").text


def test_a_job_is_found_by_its_id_on_any_backend(queue: JobQueue) -> None:
    with get_queue("memory://") as other:
        handle = queue.enqueue(add, 1)
        site = Site({"other": other, "this": queue})
        assert site.client.get(f"/find?id={handle.id}").headers["location"] == f"/this/jobs/{handle.id}"
        assert "No job has the id 'nosuch'" in site.get("/find?id=nosuch", 404).text
        assert "Not found" in site.get("/this/jobs/nosuch", 404).text
        assert "There is no backend 'nosuch'" in site.get("/nosuch/jobs", 404).text
        assert "There is no page with this address." in site.get("/nosuch", 404).text


def test_a_wrong_method_is_refused_and_the_right_ones_are_named(sqlite: JobQueue) -> None:
    response = Site(sqlite).client.post("/")
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_the_dashboard_can_be_mounted_under_a_path(sqlite: JobQueue) -> None:
    handle = sqlite.enqueue(add, 1)
    inner = Mount("/queues", dashboard_app(sqlite, allow_actions=True))
    site = Site(None, Starlette(routes=[Mount("/admin", routes=[inner])]))
    page = site.get("/admin/queues/")
    script = page.find("script", src="/admin/queues/-/static/htmx.min.js")
    assert site.client.get(script["src"]).status_code == 200
    assert page.find("div", id="live")["hx-get"] == "/admin/queues/"
    job = site.get(page.links["sums"]).links["pages.add"]
    assert job == f"/admin/queues/sqlite/jobs/{handle.id}"
    response = site.confirm(site.get(job).links["Cancel"])
    assert response.headers["location"].startswith(job)
    assert handle.status().state is JobState.CANCELLED


def test_backends_get_different_names(tmp_path: Path) -> None:
    with (
        get_queue("memory://a") as one,
        get_queue("memory://b") as two,
        get_queue(f"sqlite:///{tmp_path}/x.db") as three,
    ):
        page = Site([one, two, three]).get("/")
        assert {"memory", "memory-2", "sqlite"} <= page.links.keys()
        with pytest.raises(ConfigurationError, match="no queue"):
            dashboard_app([])
        with pytest.raises(ConfigurationError, match="cannot name a backend"):
            dashboard_app({"a/b": one})
        with pytest.raises(ConfigurationError, match="not a regular expression"):
            dashboard_app(one, mask="(")


def test_many_pages_read_the_numbers_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    stats = queue.stats

    def counted() -> Stats:
        calls.append(time.monotonic())
        return stats()

    monkeypatch.setattr(queue, "stats", counted)
    site = Site(queue)
    for _ in range(10):
        site.get("/")
    assert len(calls) <= 1 + (calls[-1] - calls[0])


def test_static_files_are_in_the_package(sqlite: JobQueue) -> None:
    site = Site(sqlite)
    places = [given[name] for _, given in site.get("/").elements for name in ("src", "href") if name in given]
    static = {place for place in places if place.startswith("/-/static/")}
    assert len(static) == 4
    for place in {*static, "/-/static/htmx.LICENSE.txt"}:
        response = site.client.get(place)
        assert response.status_code == 200
        assert response.content
