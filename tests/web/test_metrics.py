"""The metrics, read with the parsers of the Prometheus client; and the rules and the dashboard in docs."""

from __future__ import annotations

import builtins
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from queueport import Abort, JobQueue, get_queue, task
from queueport.errors import BackendUnavailable
from queueport.spi.history import HistoryCounts, HistoryQuery
from queueport.spi.store import StoreStats
from queueport.stats import BUCKETS, WorkerStats
from queueport.testing import FakeQueue
from queueport.web import Endpoints, metrics
from queueport.web.metrics import JobsCollector
from tests.web.sites import FRAMEWORKS, serve

DOCS = Path(__file__).parents[2] / "docs"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
HOSTILE = 'a"b\\c\nd{e="f"} 1\n# EOF\udcff'


@task(name="metrics.work", queue="mails")
def work(dies: bool = False) -> None:
    if dies:
        raise Abort("no")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    """A queue with a dead, a succeeded, a queued and a scheduled job."""
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as opened:
        opened.enqueue_many([work.job(True), work.job()])
        opened.worker(tasks=[work], burst=True).run()
        opened.enqueue(work)
        opened.enqueue(work.using(delay=60))
        yield opened


def modern(text: str) -> Iterable[Metric]:
    """Parse OpenMetrics."""
    found: Iterable[Metric] = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return found


def samples(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """The values of all samples, by name and labels."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_scrape_is_read_by_the_parsers_of_the_client(queue: JobQueue, framework: str) -> None:
    live = WorkerStats("host-1-a", ("mails", "other"), ("metrics.work",), datetime.now(UTC))
    queue.operations.store.announce(live, 60.0)
    queue.pause("other")
    queue.limit("other", concurrency=5, rate="30/m")
    with serve(framework, Endpoints(queue=queue)) as site:
        plain = site.client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=")
        other = site.client.get("/metrics", headers={"accept": f"{OPENMETRICS},text/plain;q=0.5"})
        assert other.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert other.text.endswith("# EOF\n")
    found, same = samples(prometheus(plain.text)), samples(modern(other.text))
    ages = [values.pop(("queueport_oldest_queued_age_seconds", "queue=mails")) for values in (found, same)]
    assert 0 < ages[0] < ages[1] < 60
    assert same == found
    jobs = {"scheduled": 1, "queued": 1, "running": 0, "retrying": 0, "succeeded": 1, "dead": 1, "cancelled": 0}
    expected: dict[tuple[str, ...], float] = {
        ("queueport_jobs", "queue=mails", f"state={state}"): number for state, number in jobs.items()
    }
    events = {"jobs_enqueued": 4, "jobs_succeeded": 1, "jobs_dead": 1, "jobs_cancelled": 0, "jobs_retried": 0}
    for event, number in {**events, "attempts_failed": 1}.items():
        expected[f"queueport_{event}_total", "queue=mails"] = number
    times = [key for key in found if key[0].startswith("queueport_attempt_")]
    assert {key for key in times if key[1:] == ("queue=mails",)} == {
        (f"queueport_attempt_{kind}_seconds_{part}", "queue=mails")
        for kind in ("wait", "run")
        for part in ("count", "sum")
    }
    for kind in ("wait", "run"):
        assert found[f"queueport_attempt_{kind}_seconds_count", "queue=mails"] == 2
        assert found[f"queueport_attempt_{kind}_seconds_bucket", "le=+Inf", "queue=mails"] == 2
        assert found[f"queueport_attempt_{kind}_seconds_bucket", "le=10.0", "queue=mails"] == 2
        assert 0 < found[f"queueport_attempt_{kind}_seconds_sum", "queue=mails"] < 10
        assert found[f"queueport_attempt_{kind}_seconds_count", "queue=other"] == 0
    assert {name: value for name, value in found.items() if name[1:2] == ("queue=mails",) and name not in times} == {
        **expected,
        ("queueport_queue_depth", "queue=mails"): 1,
        ("queueport_queue_workers", "queue=mails"): 1,
        ("queueport_queue_paused", "queue=mails"): 0,
    }
    assert {name: value for name, value in found.items() if len(name) == 1} == {
        ("queueport_up",): 1,
        ("queueport_workers",): 1,
        ("queueport_jobs_processed_total",): 2,
    }
    assert found["queueport_oldest_queued_age_seconds", "queue=other"] == 0
    assert found["queueport_queue_paused", "queue=other"] == 1
    assert found["queueport_queue_concurrency_limit", "queue=other"] == 5
    assert found["queueport_queue_rate_limit", "queue=other"] == 0.5


def test_the_names_follow_the_conventions_of_prometheus(queue: JobQueue) -> None:
    for family in prometheus(Endpoints(queue=queue).metrics().body.decode()):
        assert re.fullmatch(r"queueport_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert (family.type == "counter") == all(sample.name.endswith("_total") for sample in family.samples)
        assert (family.type == "histogram" or "_age_" in family.name) == family.name.endswith("_seconds")


@pytest.mark.parametrize("accept", ['application/openmetrics-text; version="1.0.0"', "text/plain; version=new"])
def test_a_version_that_is_no_number_gets_the_text_format(queue: JobQueue, accept: str) -> None:
    answer = Endpoints(queue=queue).metrics(accept)
    assert (answer.code, answer.media_type.partition(";")[0]) == (200, "text/plain")
    assert samples(prometheus(answer.body.decode()))["queueport_jobs_processed_total",] == 2


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_hostile_queue_name_cannot_add_samples(accept: str) -> None:
    with get_queue("memory://") as queue:
        queue.operations.store.announce(WorkerStats("w", (HOSTILE,), (), datetime.now(UTC)), 60.0)
        text = Endpoints(queue=queue).metrics(accept).body.decode()
    found = samples(modern(text) if accept else prometheus(text))
    name = HOSTILE.replace("\udcff", "\\udcff")
    assert found["queueport_queue_workers", f"queue={name}"] == 1
    assert {label for key in found for label in key if label.startswith("queue=")} == {f"queue={name}"}


def test_an_application_registers_the_collector_itself(queue: JobQueue) -> None:
    registry = CollectorRegistry()
    registry.register(JobsCollector(queue))
    assert registry.get_sample_value("queueport_jobs", {"queue": "mails", "state": "dead"}) == 1


def test_without_the_client_the_answer_says_what_to_install(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_client(name: str, *more: Any) -> Any:
        if name.startswith(("prometheus_client", "queueport.web.metrics")):
            raise ModuleNotFoundError("no module", name="prometheus_client")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without_client)
    answer = Endpoints(queue=queue).metrics()
    assert (answer.code, "pip install 'queueport[metrics]'" in answer.data["error"]) == (501, True)


# -- the files in docs that use the metrics --------------------------------------------------------


@pytest.fixture
def names(queue: JobQueue) -> set[str]:
    """The names of all samples of a scrape."""
    return {name for name, *_ in samples(prometheus(Endpoints(queue=queue).metrics().body.decode()))}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"queueport_[a-z_]+", expression))


def test_each_metric_of_the_rules_exists_and_each_alert_is_explained(names: set[str]) -> None:
    groups = yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    page = (DOCS / "monitoring.md").read_text()
    assert len(rules) == len({rule["alert"] for rule in rules}) > 5
    for rule in rules:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert metrics_in(rule["expr"]) <= names | {"queueport"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "runbook"}
        anchor = rule["annotations"]["runbook"].partition("#")[2]
        assert anchor == rule["alert"].lower()
        assert f"### {rule['alert']}\n" in page


def test_each_metric_of_the_dashboard_exists(names: set[str]) -> None:
    dashboard = json.loads((DOCS / "monitoring" / "grafana.json").read_text())
    panels = dashboard["panels"]
    used: set[str] = set()
    for panel in panels:
        assert panel.keys() >= {"id", "title", "type", "gridPos", "datasource", "targets", "fieldConfig"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            used |= metrics_in(target["expr"])
    assert used == names
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))  # no panel covers another
    assert dashboard["schemaVersion"] >= 39
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "job", "queue"}


def test_each_metric_is_documented(names: set[str]) -> None:
    families = {re.sub("_seconds_(bucket|count|sum)$", "_seconds", name) for name in names}
    assert metrics_in((DOCS / "monitoring.md").read_text()) >= families


# -- the counters and histograms -------------------------------------------------------------------


def counters(queue: JobQueue) -> dict[tuple[str, ...], float]:
    """The counters and histograms of a scrape, by a process that has not scraped before."""
    metrics._totals.pop(queue, None)
    return counted(queue)


@pytest.fixture
def noon(job_queue: FakeQueue) -> FakeQueue:
    """A queue whose clock stands at noon, so that the reset is far away."""
    job_queue.at((job_queue.now + timedelta(days=1)).replace(hour=12, minute=0, second=0))
    return job_queue


def counted(queue: JobQueue) -> dict[tuple[str, ...], float]:
    families = prometheus(Endpoints(queue=queue).metrics().body.decode())
    return samples(family for family in families if family.type in ("counter", "histogram"))


def test_prometheus_sees_each_event_once_over_days_whichever_process_it_scrapes(noon: FakeQueue) -> None:
    """It adds up the increases between two scrapes. A lower value than before is a reset, and counts from 0."""
    chance = Random(5)
    store = noon.operations.store
    before: dict[tuple[str, ...], float] = counters(noon)
    seen: defaultdict[tuple[str, ...], float] = defaultdict(float)
    resets: Counter[datetime] = Counter()
    made = dead = 0
    for _ in range(3 * 24 * 60 // 29):  # a scrape every 29 minutes, for three days
        for _ in range(chance.choice([0, 0, 1, 5])):
            dies = chance.random() < 0.3
            noon.enqueue(work.using(queue=chance.choice(["mails", "bulk"])), dies)
            made, dead = made + 1, dead + dies
        noon.drain()
        store.fold_history()
        now = counted(noon)  # before the clock moves: the reset loses what follows the last scrape
        assert now == counters(noon)  # another process has the same numbers
        for key, value in now.items():
            was = before.get(key, 0)
            seen[key] += value - was if value >= was else value
            resets[noon.now] += value < was
        before = now
        noon.advance(29 * 60)
    for queue in ("mails", "bulk"):
        assert before["queueport_attempt_run_seconds_count", f"queue={queue}"] > 0
    queues = ("queue=mails", "queue=bulk")
    assert sum(seen["queueport_jobs_enqueued_total", queue] for queue in queues) == made
    assert sum(seen["queueport_jobs_dead_total", queue] for queue in queues) == dead
    assert sum(seen["queueport_attempts_failed_total", queue] for queue in queues) == dead
    assert sum(seen["queueport_jobs_succeeded_total", queue] for queue in queues) == made - dead
    for kind in ("wait", "run"):
        inf = [(f"queueport_attempt_{kind}_seconds_bucket", "le=+Inf", queue) for queue in queues]
        assert sum(seen[key] for key in inf) == made
    reset = [at for at, number in resets.items() if number]
    assert len(reset) == 3
    assert all(at.replace(hour=4, minute=43) <= at < at.replace(hour=5, minute=12) for at in reset)


def test_a_scrape_after_the_first_reads_only_the_last_minutes(noon: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        noon.enqueue(work)
        noon.drain()
        noon.advance(3600)
    first = counters(noon)
    asked: list[HistoryQuery] = []
    store = noon.operations.store
    read = store.history

    def recorded(query: HistoryQuery) -> Sequence[HistoryCounts]:
        asked.append(query)
        return read(query)

    monkeypatch.setattr(store, "history", recorded)
    assert counted(noon) == first
    noon.advance(300)
    counted(noon)
    ours = [query for query in asked if query.step not in (120, 3660)]  # the others are those of `stats`
    assert len(ours) >= 2
    assert all(query.until - query.since <= 1260 for query in ours)
    assert first["queueport_jobs_enqueued_total", "queue=mails"] > 0


def buckets(queue: JobQueue) -> dict[float, float]:
    """The buckets of the histogram of waits, by their upper bounds."""
    found = counters(queue)
    return {float(key[1][3:]): value for key, value in found.items() if key[0].endswith("wait_seconds_bucket")}


def test_the_histograms_count_times_up_to_their_bounds(noon: FakeQueue) -> None:
    bounds = {0.0: 0.001, 0.002: 0.0025, 0.003: 0.0063, 3.9: 4.0, 4.1: 10.0, 90_000.0: 1e5, 200_000.0: math.inf}
    for seconds, bound in bounds.items():
        before = buckets(noon)
        noon.enqueue(work)
        noon.advance(seconds)
        noon.drain()
        grown = {key: value - before.get(key, 0) for key, value in buckets(noon).items()}
        if seconds > 80_000:
            grown = buckets(noon)  # there was a reset
        assert {key: number for key, number in grown.items() if number} == {
            key: 1 for key in [*BUCKETS[::2], math.inf] if key >= bound
        }
    text = Endpoints(queue=noon).metrics(OPENMETRICS).body.decode()
    assert any(family.type == "histogram" for family in modern(text))


@pytest.mark.parametrize("method", ["stats", "history"])
def test_while_the_store_is_away_only_the_metrics_of_the_queue_are_missing(
    queue: JobQueue, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    Gauge("own", "A metric of the application.", registry=registry).set(7)
    registry.register(JobsCollector(queue))
    assert registry.get_sample_value("queueport_up") == 1

    def lost(*_: Any) -> Any:
        raise BackendUnavailable(f"the store of {method} does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(queue.operations.store, method, lost)
        assert samples(prometheus(generate_latest(registry).decode())) == {("own",): 7, ("queueport_up",): 0}
    assert f"the store of {method} does not answer" in caplog.text
    assert registry.get_sample_value("queueport_up") == 1
    queue.close()
    assert registry.get_sample_value("queueport_up") == 0


def test_a_scrape_reads_the_statistics_only_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    stats = queue.operations.store.stats

    def counted() -> StoreStats:
        calls.append(None)
        return stats()

    monkeypatch.setattr(queue.operations.store, "stats", counted)
    Endpoints(queue=queue).metrics()
    assert len(calls) == 1
