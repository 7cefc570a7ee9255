"""The page with charts of the history, and the schedules on the overview."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from queueport import JobQueue
from queueport.engine.schedules import ScheduleDispatcher
from queueport.errors import BackendUnavailable
from queueport.spi.history import HistoryCounts, HistoryQuery
from queueport.stats import Stats
from queueport.testing import FakeQueue
from queueport.testing.waiting import eventually
from queueport.web.dashboard.charts import CHART_HEIGHT, CHART_WIDTH, EDGE, Line, chart, nice
from queueport.web.dashboard.past import SPANS
from tests.dashboard.site import Page, Site, add, fail, work

PLACES = {"hour": 60, "day": 96, "month": 120}


def keys(page: Page) -> dict[str, str]:
    """The legend of each chart: the name of each line, and the text behind it."""
    labels = [given["aria-label"] for tag, given in page.elements if tag == "svg" and given.get("class") == "chart"]
    found = {}
    for label in labels:
        title, _, values = label.partition(" over ")
        for name, text in re.findall(r"(\w+) ([^,;]+)[,;]", values.partition(": ")[2]):
            found[f"{title} {name}"] = text
    return found


def prepared(site: Site) -> None:
    """Show the overview, and wait until the thread that reads its numbers has also read those of the charts."""
    site.get("/")
    eventually(lambda: all(thread.name != "queueport-dashboard" for thread in threading.enumerate()))


def spans_read(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The spans, in seconds, of which the charts read the numbers from the store of this queue from now on."""
    store, asked = queue.operations.store, list[float]()
    read = store.history

    def history(query: HistoryQuery) -> Sequence[HistoryCounts]:
        if query.by_task:
            asked.append(query.until - query.since)
        return read(query)

    monkeypatch.setattr(store, "history", history)
    return asked


def points(line: Line) -> list[list[tuple[float, float]]]:
    """The points of each part of a line that is drawn."""
    drawn = re.findall(r'<polyline class="\w+" points="([^"]*)"', chart([line], 0, 10, 4, "label"))
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in part.split())] for part in drawn]


@pytest.mark.parametrize("span", PLACES)
def test_charts_show_what_has_happened(job_queue: FakeQueue, span: str) -> None:
    job_queue.at(job_queue.now.replace(second=0).replace(hour=23, minute=50))
    job_queue.enqueue_many([add.job(number) for number in range(5)])
    job_queue.enqueue(fail, "no")
    job_queue.advance(3)
    job_queue.drain()
    job_queue.advance(50)
    page = Site({"main": job_queue}).get(f"/main/history?span={span}")
    found = keys(page)
    assert found["Throughput per minute enqueued"] == "6"
    assert found["Throughput per minute succeeded"] == "5"
    assert found["Failures per minute failed"] == found["Failures per minute dead"] == "1"
    assert 1.9 < float(found["Wait for a worker p50"].removesuffix(" s")) < 4.8
    if span == "hour":
        assert found["Run time p95"].endswith("ms")
        (line, *_) = [given["points"] for tag, given in page.elements if tag == "polyline"]
        assert len(line.split()) in (60, 61)
    assert page.find("a", **{"aria-current": "true"})["href"].endswith(f"span={span}")


@pytest.mark.parametrize("span", PLACES)
def test_the_points_of_the_past_are_read_once(job_queue: FakeQueue, span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is read again shows what a new dashboard shows, but asks the store only for the last steps."""
    step = SPANS[span].step
    site = Site({"main": job_queue})
    prepared(site)
    for moved in (1.0, 30.0, step + 7.0, 3 * step - 1.0, 0.0, 200 * step):
        job_queue.enqueue_many([add.job(number) for number in range(3)])
        job_queue.advance(moved)
        shown = keys(site.get(f"/main/history?span={span}"))
        new = Site({"main": job_queue})
        prepared(new)
        assert shown == keys(new.get(f"/main/history?span={span}"))
    asked = spans_read(job_queue, monkeypatch)
    site.get(f"/main/history?span={span}")
    assert len(asked) == 1
    assert asked[0] < 2 * step + 360


@pytest.mark.parametrize("filtered", ["", "&queue=sums", "&task=pages.add"], ids=["all", "queue", "task"])
@pytest.mark.parametrize("span", PLACES)
def test_the_first_page_with_charts_does_not_wait_for_the_past(
    job_queue: FakeQueue, span: str, filtered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_queue.enqueue(add, 1)
    site = Site({"main": job_queue})
    prepared(site)
    asked = spans_read(job_queue, monkeypatch)
    page = site.get(f"/main/history?span={span}{filtered}")
    assert len(asked) == 1
    assert asked[0] < 2 * SPANS[span].step + 360
    assert keys(page)["Throughput per minute enqueued"] == "1"


def test_the_numbers_of_charts_are_read_after_an_outage(job_queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Stats:
        raise BackendUnavailable("the store is away")

    monkeypatch.setattr("queueport.web.dashboard.sources.FRESH", 0.0)
    site, asked = Site({"main": job_queue}), spans_read(job_queue, monkeypatch)
    with monkeypatch.context() as outage:
        outage.setattr(job_queue, "stats", away)
        prepared(site)
    assert asked == []
    prepared(site)
    assert all(0 <= read - span.since <= span.step for read, span in zip(asked, SPANS.values(), strict=True))


def test_a_clock_that_was_set_forward_leaves_no_gap_in_the_charts(job_queue: FakeQueue) -> None:
    site = Site({"main": job_queue})
    for hours in (0, 0.2, 0.8, 40):
        job_queue.at(job_queue.now + timedelta(hours=hours))
        job_queue.enqueue(add, 1)
        page = site.get("/main/history?span=hour")
        assert keys(page) == keys(Site({"main": job_queue}).get("/main/history?span=hour"))


def test_the_history_is_filtered_by_queue_and_task(queue: JobQueue) -> None:
    queue.enqueue_many([add.job(1), add.job(2), fail.job("no")])
    site = Site({"main": queue})
    assert site.get("/").links["History of main"] == "/main/history"
    for query, number in {
        "": "3",
        "?queue=sums": "2",
        "?task=pages.fail": "1",
        "?queue=sums&task=pages.fail": "0",
    }.items():
        assert keys(site.get(f"/main/history{query}"))["Throughput per minute enqueued"] == number
    assert site.get("/main/history?queue=sums").links["30 days"] == "/main/history?queue=sums&span=month"
    assert site.get("/main/jobs?queue=sums&state=dead").links["History"] == "/main/history?queue=sums"
    for wrong in ("?span=year", "?queue=a%20b"):
        site.get(f"/main/history{wrong}", 400)
    site.get("/nosuch/history", 404)


def test_without_jobs_the_charts_are_empty(queue: JobQueue) -> None:
    found = keys(Site({"main": queue}).get("/main/history"))
    assert found["Throughput per minute enqueued"] == "0"
    assert found["Run time p99"] == "\u2013"


def test_a_line_has_gaps_and_dots_and_fits_the_scale() -> None:
    bottom = CHART_HEIGHT - EDGE
    line = Line("p50", "ink", [(0, 0.0), (2, 4.0), (4, None), (6, 2.0), (8, None)], "")
    first, dot = points(line)
    assert first == [(0, bottom), (CHART_WIDTH * 0.2, EDGE)]
    assert dot == [(CHART_WIDTH * 0.6, CHART_HEIGHT / 2)] * 2
    assert points(Line("p50", "ink", [(0, None)], "")) == []
    assert 'aria-label="&lt;b&gt;&#34;"' in chart([], 0, 0, 1, '<b>"')


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (0.03, 0.05), (1, 1), (1.1, 2), (2.1, 5), (5.1, 10), (999, 1000), (1000, 1000)]
)
def test_a_scale_ends_at_a_round_number(highest: float, top: float) -> None:
    assert nice(highest) == pytest.approx(top)


def test_the_overview_shows_the_schedules_with_ticks_and_last_result(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueport.web.dashboard.sources.FRESH", 0.0)
    monkeypatch.setattr("queueport.web.dashboard.sources.SCHEDULES_EVERY", 0.0)
    site = Site({"main": queue})
    assert "Schedules" not in site.get("/").text
    queue.schedules.add("nightly", add.job(1), cron="0 3 * * *", timezone="Europe/Berlin")
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    queue.schedules.add("often", fail.job("no"), every=3600.0, start=begun)
    queue.schedules.add("<b>idle", add.job(2), every=7200.0)
    queue.schedules.pause("<b>idle")
    text = site.get("/").text
    assert "nightly pages.add 0 3 * * * (Europe/Berlin) in " in text
    assert "<b>idle pages.add every 7200 s paused \u2013 \u2013" in text
    entry = next(each for each in queue.operations.store.documents("schedule") if each.name == "often")
    value = {**entry.value, "next": queue.operations.store.now() - 1}
    queue.operations.store.put_document(type(entry)("schedule", "often", value, "due"), entry.rev)
    ScheduleDispatcher(queue.operations).make_due()
    work(queue)
    page = site.get("/")
    job_id = queue.schedules.get("often").last_job_id
    assert job_id is not None
    assert re.search(r"often pages.fail every 3600 s in \d+ \w+ ([\d.]+ \w+ ago|now) dead", page.text)
    assert page.has("a", href=f"/main/jobs/{job_id}")


def test_many_schedules_are_cut(sqlite: JobQueue) -> None:
    for number in range(52):
        sqlite.schedules.add(f"s-{number:02}", add.job(number), every=3600.0)
    text = Site(sqlite).get("/").text
    assert "s-49" in text
    assert "s-50" not in text
    assert "And 2 more" in text
