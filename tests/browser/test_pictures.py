"""Writes the pictures of docs/dashboard.md, with `nox -s browser -- --screenshots`."""

from __future__ import annotations

import math
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from playwright.sync_api import Page

from queueport import JobState, get_queue
from queueport.testing.waiting import eventually
from tests.browser import shop
from tests.browser.conftest import Open, opened, serving, working

FOLDER = Path(__file__).parents[2] / "docs" / "images"
SECONDS = 40
"""How long jobs run before the pictures are taken, so that the charts have something to show."""


@pytest.mark.timeout(180)
def test_pictures(tmp_path: Path, tab: Open, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.config.getoption("--screenshots"):
        pytest.skip("writes pictures only with --screenshots")
    monkeypatch.setattr("queueport.web.dashboard.sources.SAMPLE_EVERY", 0.5)
    monkeypatch.setattr("queueport.web.dashboard.sources.FRESH", 0.4)
    shop.released.clear()
    shop.bank_answers.clear()
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        sqlite = stack.enter_context(opened("sqlite", tmp_path))
        rabbitmq = stack.enter_context(opened("rabbitmq + redis", tmp_path))
        memory = stack.enter_context(get_queue("memory://"))
        queues = {"orders": rabbitmq, "backoffice": sqlite, "scratch": memory}
        served = stack.enter_context(serving(queues, allow_actions=True))
        for queue in (rabbitmq, sqlite):
            stack.enter_context(working(queue))
        dead = shop.dead_payment(rabbitmq)
        rabbitmq.enqueue_many([shop.charge.job(f"o-{number}", {}) for number in range(4)])
        rabbitmq.enqueue_many([shop.write_report.job(month) for month in ("2026-10", "2026-11")])
        sqlite.enqueue(shop.write_report, "2026-09")
        sqlite.enqueue(shop.import_catalog, "catalog.csv")
        rabbitmq.enqueue_many([shop.send_welcome.using(delay=3600).job(number) for number in range(12)])
        eventually(lambda: rabbitmq.status(dead).state is JobState.DEAD, 30)
        page = tab(served, color_scheme="light")
        chance = Random(7)
        for second in range(SECONDS * 2):
            level = 1 + math.sin(second / 9)
            rabbitmq.enqueue_many([shop.send_welcome.job(number) for number in range(int(12 + 22 * level))])
            sqlite.enqueue_many([shop.send_welcome.job(number) for number in range(chance.randrange(12))])
            if chance.random() < 0.4:
                rabbitmq.enqueue(shop.charge, f"o-{2000 + second}", {})
            page.request.get("/")
            threading.Event().wait(0.4)
        page.goto("/")
        save(page, "dashboard-overview", tmp_path)
        page.goto(f"/orders/jobs/{dead}")
        save(page, "dashboard-job", tmp_path)
        page.emulate_media(color_scheme="dark")
        page.goto("/orders/jobs?state=dead")
        save(page, "dashboard-jobs-dark", tmp_path)
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto("/")
        save(page, "dashboard-phone-dark", tmp_path)


def save(page: Page, name: str, folder: Path) -> None:
    """Take a picture, without the names of this machine and its folders."""
    names = {
        str(FOLDER.parents[1] / "tests" / "browser"): "/srv/shop",
        str(folder): "/srv",
        socket.gethostname(): "web",
    }
    page.evaluate(REPLACE, names)
    page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")


REPLACE = """names => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        for (const name in names) texts.currentNode.data = texts.currentNode.data.replaceAll(name, names[name]);
}"""
