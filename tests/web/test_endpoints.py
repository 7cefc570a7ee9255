"""Each endpoint in each framework, over real HTTP, with a real worker."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from queueport import Abort, JobQueue, current_job, get_queue, task
from queueport.errors import ConfigurationError
from queueport.testing import FakeQueue
from queueport.testing.waiting import eventually
from queueport.web import ENDPOINTS, Endpoints, Thresholds
from queueport.web import Events as EventStream
from tests.web.sites import FRAMEWORKS, Site, serve

go_on = threading.Event()


@task(name="web.render", queue="pages")
def render(page: str) -> dict[str, str]:
    current_job().progress(1, total=2, message="reading")
    assert go_on.wait(30)
    return {"page": page}


@task(name="web.fail", queue="mails")
def fail(address: str) -> None:
    raise Abort(f"amqp://user:secret@host refused {address}")


@pytest.fixture(params=["memory", "sqlite"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    go_on.clear()
    with get_queue("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db") as opened:
        yield opened
        go_on.set()


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(framework: str, queue: JobQueue) -> Iterator[Site]:
    with serve(framework, Endpoints(queue=queue, keep_alive=0.3)) as serving:
        yield serving


def checked(name: str, answer: Any) -> Any:
    """The answer, which must have the documented type."""
    model: Any = ENDPOINTS[name].model
    assert TypeAdapter[Any](model).validate_python(answer, strict=True, extra="forbid") == answer
    return answer


def test_the_health_counts_jobs_workers_and_queues(site: Site, queue: JobQueue) -> None:
    queue.enqueue(fail.using(delay=60), "later")
    queue.enqueue(fail.using(queue="idle"), "nobody")
    queue.pause("idle", reason="the mail server is down")
    with queue.worker("pages", "mails", tasks=[render, fail]).start():
        queue.enqueue(fail, "ann")
        queue.enqueue(render, "front")
        eventually(lambda: queue.stats().totals.running == queue.stats().totals.dead == 1)
        shown = checked("jobs_health", site.get("/health/jobs"))
        go_on.set()
    counts = {name: value for name, value in shown.items() if isinstance(value, int)}
    assert counts == {
        "active": 1,
        "queued": 1,
        "scheduled": 1,
        "retrying": 0,
        "dead": 1,
        "processed": 1,
        "failed": 1,
        "workers": 1,
    }
    assert shown["totals"] == {
        "scheduled": 1,
        "queued": 1,
        "running": 1,
        "retrying": 0,
        "succeeded": 0,
        "dead": 1,
        "cancelled": 0,
    }
    idle, pages = shown["queues"]["idle"], shown["queues"]["pages"]
    assert (idle["size"], idle["depth"], idle["latency"] > 0, idle["paused"]) == (1, 1, True, True)
    assert (pages["size"], pages["running"], pages["latency"], pages["paused"]) == (0, 1, 0.0, False)


def test_the_status_hides_arguments_result_and_traceback(site: Site, queue: JobQueue) -> None:
    go_on.set()
    dead, done = queue.enqueue(fail, "ann"), queue.enqueue(render, "front")
    queue.worker(tasks=[render, fail], burst=True).run()
    shown = checked("job_status", site.get(f"/jobs/{dead.id}/status"))
    assert (shown["state"], shown["finished"], shown["attempts"]) == ("dead", True, 1)
    assert shown["error"].keys() == {"type", "message", "at", "attempt"}
    assert shown["error"]["message"] == "amqp://user:***@host refused ann"
    shown = checked("job_status", site.get(f"/jobs/{done.id}/status"))
    assert (shown["state"], shown["error"]) == ("succeeded", None)
    assert not {"args", "kwargs", "result", "traceback"} & shown.keys()


def test_the_status_shows_what_the_application_allows(framework: str, queue: JobQueue) -> None:
    go_on.set()
    dead, done = queue.enqueue(fail, "ann"), queue.enqueue(render, page="front")
    queue.worker(tasks=[render, fail], burst=True).run()
    with serve(framework, Endpoints(queue=queue, show={"arguments", "result", "traceback"})) as site:
        shown = checked("job_status", site.get(f"/jobs/{dead.id}/status"))
        assert "raise Abort" in shown["error"]["traceback"]
        assert "secret@" not in shown["error"]["traceback"]
        shown = checked("job_status", site.get(f"/jobs/{done.id}/status"))
        assert (shown["args"], shown["kwargs"], shown["result"]) == ([], {"page": "front"}, {"page": "front"})


@pytest.mark.parametrize("path", ["status", "events"])
def test_an_unknown_job_and_an_invalid_id_are_refused_with_json(site: Site, path: str) -> None:
    assert "there is no job 'nosuch'" in site.get(f"/jobs/nosuch/{path}", 404)["error"]
    for wrong in ("%00", "a%20b", "x" * 65, "%F0%9F%90%88", "a.b", "'%20OR%201=1--"):
        answer = site.get(f"/jobs/{wrong}/{path}", 400)["error"]
        assert "is not a job id: use 1 to 64 letters, digits, _ or -" in answer
        assert len(answer) < 200


def test_events_follow_a_job_until_it_has_ended(framework: str, queue: JobQueue) -> None:
    handle = queue.enqueue(render, "front")
    with serve(framework, Endpoints(queue=queue, keep_alive=3600.0)) as site:
        with site.events(handle.id) as events:
            first = next(events)
            assert (first["event"], first["data"]["state"]) == ("status", "queued")
            assert first["data"] == site.get(f"/jobs/{handle.id}/status")
            with queue.worker(tasks=[render]).start():
                running = events.until(lambda event: event["data"]["progress"] is not None)
                assert running["data"]["progress"] == {"current": 1, "total": 2, "message": "reading"}
                go_on.set()
                last = events.until(lambda event: event["data"]["finished"])
            assert list(events) == []
        assert (last["data"]["state"], last["id"]) == ("succeeded", "succeeded-1")
        assert "result" not in last["data"]
        again = site.client.get(f"/jobs/{handle.id}/events", headers={"last-event-id": last["id"]})
        assert (again.status_code, again.content) == (204, b"")
        other = site.client.get(f"/jobs/{handle.id}/events", headers={"last-event-id": "running-1"})
        assert other.text.count("event: status") == 1


def test_the_events_of_a_job_end_when_its_record_is_deleted(
    framework: str, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = queue.enqueue(render, "front")
    with serve(framework, Endpoints(queue=queue, keep_alive=3600.0)) as site, site.events(handle.id) as events:
        next(events)
        monkeypatch.setattr(queue.operations.store, "get", lambda ids: [None for _ in ids])
        last = next(events)
        assert (last["event"], "there is no job" in last["data"]["error"]) == ("missing", True)
        assert list(events) == []


def test_a_stream_has_comments_and_ends_when_its_client_goes_away(site: Site, queue: JobQueue) -> None:
    handle = queue.enqueue(render, "front")
    with site.events(handle.id) as events:
        next(events)
        assert next(events) == {"comment": "no change"}
        assert site.waiting() > 0
    eventually(lambda: site.waiting() == 0)


@pytest.mark.parametrize("queue", ["memory"], indirect=True)
def test_a_stream_ends_after_its_longest_duration_and_can_be_opened_again(framework: str, queue: JobQueue) -> None:
    handle = queue.enqueue(render, "front")
    with serve(framework, Endpoints(queue=queue, keep_alive=3600.0, max_duration=0.4)) as site:
        begun = time.monotonic()
        for _ in range(2):
            with site.events(handle.id) as events:
                first, *more = events
                assert (first["event"], first["data"]["state"]) == ("status", "queued")
                assert more == [{"comment": "no change"}]
        assert 0.8 <= time.monotonic() - begun < 10
        eventually(lambda: site.waiting() == 0)


@pytest.mark.parametrize("queue", ["memory"], indirect=True)
def test_a_head_request_ends_at_once_also_for_events(framework: str, queue: JobQueue) -> None:
    handle = queue.enqueue(render, "front")
    with serve(framework, Endpoints(queue=queue, keep_alive=3600.0)) as site:
        assert site.client.head("/livez").status_code == 200
        answer = site.client.head(f"/jobs/{handle.id}/events")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert site.get("/livez") == {"alive": True}  # over the same connection
        eventually(lambda: site.waiting() == 0)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("queue", ["memory"], indirect=True)
def test_a_stream_reads_seldom_while_every_read_fails_at_once(
    queue: JobQueue, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Endpoints(queue=queue, keep_alive=0.5).job_events(queue.enqueue(render, "front").id)
    assert isinstance(events, EventStream)
    calls: list[None] = []

    def broken(ids: Any, timeout: float) -> Any:
        calls.append(None)
        raise ConfigurationError("there is no table")

    monkeypatch.setattr(queue.operations.store, "wait", broken)

    async def first_three() -> list[str]:
        found: list[str] = []
        async for text in events:
            found.append(text)
            if len(found) == 3:
                break
        return found

    texts = list(islice(events, 3)) if mode == "sync" else asyncio.run(first_three())
    assert texts[1:] == [": the job store does not answer\n\n"] * 2
    assert len(calls) < 10


@pytest.mark.parametrize("queue", ["sqlite"], indirect=True)
def test_a_stream_stays_open_while_the_store_does_not_answer(site: Site, queue: JobQueue, tmp_path: Path) -> None:
    go_on.set()
    handle = queue.enqueue(render, "front")
    files = {file: tmp_path / f"away-{file.name}" for file in tmp_path.glob("jobs.db*")}
    with site.events(handle.id) as events:
        next(events)
        for file, away in files.items():
            file.rename(away)
        events.until(lambda event: event.get("comment") == "the job store does not answer")
        for file, away in files.items():
            away.rename(file)
        queue.worker(tasks=[render], burst=True).run()
        assert events.until(lambda event: "data" in event)["data"]["state"] in {"running", "succeeded"}


def test_the_process_is_ready_until_a_limit_is_exceeded(framework: str, queue: JobQueue) -> None:
    limits = Thresholds(max_depth={"*": 5, "pages": 1}, max_dead=0, min_workers=1)
    with serve(framework, Endpoints(queue=queue, thresholds=limits)) as site:
        assert site.get("/livez") == {"alive": True}
        missing = "there are no live workers, fewer than 1"
        assert checked("ready", site.get("/readyz", 503)) == {"ready": False, "problems": [missing]}
        with queue.worker("mails", tasks=[fail]).start():
            eventually(lambda: queue.stats().workers)
            assert checked("ready", site.get("/readyz")) == {"ready": True, "problems": []}
            for page in ("a", "b"):
                queue.enqueue(render, page)
            queue.enqueue(fail, "ann")
            eventually(lambda: queue.stats().totals.dead)
            assert site.get("/readyz", 503)["problems"] == [
                "queue mails has 1 dead job, more than 0",
                "queue pages has 2 queued jobs, more than 1",
            ]


@pytest.mark.parametrize("queue", ["sqlite"], indirect=True)
def test_while_the_store_is_away_every_answer_says_so(site: Site, queue: JobQueue, tmp_path: Path) -> None:
    handle = queue.enqueue(render, "front")
    for file in tmp_path.glob("jobs.db*"):
        file.rename(tmp_path / f"away-{file.name}")
    away = {"error": "the job store or the backend does not answer; the server's log has the cause"}
    for path in ("/health/jobs", f"/jobs/{handle.id}/status", f"/jobs/{handle.id}/events"):
        assert site.get(path, 503) == away
    metrics = site.client.get("/metrics")
    assert (metrics.status_code, "queueport_up 0.0" in metrics.text) == (200, True)
    assert site.get("/readyz", 503) == {"ready": False, "problems": [away["error"]]}
    assert site.get("/livez") == {"alive": True}


@pytest.mark.parametrize("queue", ["memory"], indirect=True)
def test_only_the_included_endpoints_exist(framework: str, queue: JobQueue) -> None:
    with serve(framework, Endpoints(queue=queue, include={"live", "job_status"})) as site:
        assert site.get("/livez") == {"alive": True}
        assert "there is no job" in site.get("/jobs/nosuch/status", 404)["error"]
        for path in ("/health/jobs", "/metrics", "/readyz", "/jobs/nosuch/events"):
            assert site.client.get(path).status_code == 404
        assert site.client.post("/livez").status_code == 405


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
@pytest.mark.parametrize("queue", ["memory"], indirect=True)
def test_the_openapi_document_describes_each_endpoint(site: Site, framework: str) -> None:
    described = site.client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert described["paths"].keys() == {endpoint.path for endpoint in ENDPOINTS.values()}
    schemas, text = described["components"]["schemas"], json.dumps(described)
    for name in ("JobsHealth", "QueueHealth", "JobAnswer", "JobErrorAnswer", "Readiness", "ErrorAnswer"):
        assert f'"#/components/schemas/{name}"' in text
        assert schemas[name]["description"]
    assert schemas["JobAnswer"]["properties"].keys() > {"state", "progress", "result"}
    assert "result" not in schemas["JobAnswer"]["required"]
    status = described["paths"]["/jobs/{job_id}/status"]["get"]
    assert [parameter["name"] for parameter in status["parameters"]] == ["job_id"]
    assert {"200", "400", "404", "503"} <= status["responses"].keys()
    ready = described["paths"]["/readyz"]["get"]["responses"]["503"]["content"]["application/json"]["schema"]
    assert ready == {"$ref": "#/components/schemas/Readiness"}


@pytest.mark.parametrize("framework", ["starlette"])
@pytest.mark.parametrize("queue", ["memory"], indirect=True)
def test_the_app_answers_other_paths_and_methods_with_json(site: Site) -> None:
    assert "nothing at this path" in site.client.get("/nosuch").json()["error"]
    assert "use the method GET" in site.client.post("/readyz").json()["error"]


def test_without_a_queue_the_endpoints_use_the_default_queue(job_queue: FakeQueue) -> None:
    handle = render.enqueue("front")
    assert Endpoints().job_status(handle.id).data["state"] == "queued"


def test_a_wrong_default_queue_is_an_error_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QUEUEPORT_URL", "nosuch://x")
    answer = Endpoints().jobs_health()
    assert (answer.code, answer.data) == (500, {"error": "the request failed; the server's log has the cause"})
    assert "no backend for nosuch:// is installed" in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"show": {"results"}}, "did you mean 'result'"),
        ({"show": "result"}, "show='result' must be a set of names"),
        ({"include": {"metric"}}, "did you mean 'metrics'"),
        ({"keep_alive": 0}, "keep_alive=0 is not a number of seconds greater than 0"),
        ({"max_duration": 0}, "max_duration=0 is not a number of seconds greater than 0"),
        ({"max_duration": None}, "max_duration=None is not a number of seconds greater than 0"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Endpoints(**options)
