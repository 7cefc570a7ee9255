"""The metrics, read with the parsers of the Prometheus client; and the rules and the dashboard in docs."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from queueport import Abort, JobQueue, get_queue, task
from queueport.spi.store import StoreStats
from queueport.stats import WorkerStats
from queueport.web import Endpoints
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
    assert {name: value for name, value in found.items() if name[1:2] == ("queue=mails",)} == {
        **expected,
        ("queueport_queue_depth", "queue=mails"): 1,
        ("queueport_queue_workers", "queue=mails"): 1,
        ("queueport_queue_paused", "queue=mails"): 0,
    }
    assert {name: value for name, value in found.items() if len(name) == 1} == {
        ("queueport_workers",): 1,
        ("queueport_jobs_processed_total",): 2,
        ("queueport_attempts_failed_total",): 1,
    }
    assert found["queueport_oldest_queued_age_seconds", "queue=other"] == 0
    assert found["queueport_queue_paused", "queue=other"] == 1


def test_the_names_follow_the_conventions_of_prometheus(queue: JobQueue) -> None:
    for family in prometheus(Endpoints(queue=queue).metrics().body.decode()):
        assert re.fullmatch(r"queueport_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert (family.type == "counter") == all(sample.name.endswith("_total") for sample in family.samples)
        assert ("age" in family.name) == family.name.endswith("_seconds")


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
    assert {key[1] for key in found if len(key) > 1} == {f"queue={name}"}


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
    assert metrics_in((DOCS / "monitoring.md").read_text()) >= names


def test_a_scrape_reads_the_statistics_only_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    stats = queue.operations.store.stats

    def counted() -> StoreStats:
        calls.append(None)
        return stats()

    monkeypatch.setattr(queue.operations.store, "stats", counted)
    Endpoints(queue=queue).metrics()
    assert len(calls) == 1
