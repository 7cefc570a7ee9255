"""The dashboard in Chromium, against real workers: refresh, actions, keyboard, contrast, sizes, hostile content."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from queueport import JobState, Retry
from queueport.testing.waiting import eventually
from tests.browser import shop
from tests.browser.conftest import WIDTHS, Open, Served

HOSTILE = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "</pre></main><svg onload=window.hacked=1>",
    '" hx-get="/audit" hx-trigger="load" onmouseover="window.hacked=1',
    "javascript:window.hacked=1",
    "{{ 7 * 7 }} ${7 * 7}",
    "nul \x00 bidi \u202e\u2066 end",
    "long" * 5_000,
]


def dead_payment(served: Served) -> str:
    shop.bank_answers.clear()
    job_id = shop.dead_payment(served.queue)
    eventually(lambda: served.queue.status(job_id).state is JobState.DEAD, 20)
    return job_id


def test_the_overview_refreshes_itself(served: Served, tab: Open) -> None:
    page = tab(served)
    succeeded = page.locator(".tile.succeeded b")
    expect(succeeded).to_have_text("0")
    served.queue.enqueue(shop.send_welcome, 1)
    expect(succeeded).to_have_text("1")  # without a reload
    expect(page.get_by_role("link", name="emails", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause updates").click()
    expect(page.get_by_text("Updates are paused.")).to_be_visible()
    served.queue.enqueue(shop.send_welcome, 2).result(20)
    page.wait_for_timeout(4_000)  # longer than the time between two updates
    expect(succeeded).to_have_text("1")
    page.get_by_role("button", name="Pause updates").click()
    expect(succeeded).to_have_text("2")


def test_a_running_job_is_followed_to_its_end(served: Served, tab: Open) -> None:
    handle = served.queue.enqueue(shop.write_report, "2026-11")
    page = tab(served, f"/main/jobs/{handle.id}")
    expect(page.locator("progress")).to_have_attribute("value", "6")
    expect(page.get_by_text("page 6")).to_be_visible()
    page.goto("/")
    page.get_by_role("link", name=re.compile("shop.reports.write")).click()  # the worker's row says what it runs
    expect(page.get_by_role("heading", name="shop.reports.write")).to_be_visible()
    shop.released.set()
    expect(page.locator(".head .state")).to_have_text("succeeded")
    expect(page.get_by_label("Result")).to_have_text('"2026-11.pdf"')


def test_an_opened_error_stays_open_when_the_page_refreshes(served: Served, tab: Open) -> None:
    shop.bank_answers.clear()
    job = shop.charge.using(retry=Retry(max_attempts=9, initial=600))
    handle = served.queue.enqueue(job, "o-1", {})
    eventually(lambda: handle.status().failures == 1, 20)
    handle.retry()
    eventually(lambda: handle.status().failures == 2, 20)
    page = tab(served, f"/main/jobs/{handle.id}")
    opened = page.locator("details", has_text="attempt 1")
    opened.locator("summary").click()
    expect(page.get_by_label("Traceback of attempt 1")).to_be_visible()
    handle.retry()
    expect(page.get_by_label("Traceback of attempt 3")).to_be_visible()  # the new error, without a reload
    expect(page.get_by_label("Traceback of attempt 1")).to_be_visible()


def test_a_dead_job_is_retried_with_the_keyboard_after_a_confirmation(served: Served, tab: Open) -> None:
    job_id = dead_payment(served)
    page = tab(served, "/main/jobs?state=dead")
    page.get_by_role("link", name="shop.payments.charge").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="shop.payments.charge")).to_be_visible()
    expect(page.get_by_text("Traceback (most recent call last)").first).to_be_visible()
    focus(page, "Retry")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Retry on main")).to_be_visible()
    expect(page.get_by_text(f"This will retry job {job_id}.")).to_be_visible()
    expect(page.get_by_text("Pause updates")).to_be_hidden()  # this page does not refresh itself
    assert served.queue.status(job_id).state is JobState.DEAD
    shop.bank_answers.set()
    focus(page, "Retry")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 job was queued.")).to_be_visible()
    expect(page.locator(".head .state")).to_have_text("succeeded")
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("cell", name=f"retry job {job_id}")).to_be_visible()


def test_a_dead_job_is_edited_and_replayed(served: Served, tab: Open) -> None:
    job_id = dead_payment(served)
    shop.bank_answers.set()
    page = tab(served, f"/main/jobs/{job_id}", strict=False)  # the browser logs the refused form as an error
    page.get_by_role("link", name="Edit and replay").click()
    args = page.get_by_label("The positional arguments, a JSON array")
    expect(args).to_have_value(re.compile("o-1007"))
    assert "4242 4242" in args.input_value()
    assert '"123"' not in args.input_value()  # a hidden value
    edited = args.input_value().replace("o-1007", "o-1008")
    args.fill(edited.replace("[", "", 1))
    page.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("alert")).to_contain_text("is not valid JSON")
    expect(args).to_have_attribute("aria-invalid", "true")
    args.fill(edited)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Replay"
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"Job \w+ was enqueued\."))).to_be_visible()
    expect(page.locator(".head .state")).to_have_text("succeeded")
    new_id = page.url.rpartition("/")[2].partition("?")[0]
    assert served.queue.status(new_id).args == ["o-1008", {"number": "4242 4242", "cvc_token": "123"}]
    page.get_by_role("link", name=job_id).click()  # the job that it was made from
    expect(page.locator(".head .state")).to_have_text("dead")
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("cell", name=f"replay job {job_id} with other arguments")).to_be_visible()


def test_the_history_is_shown_for_a_queue_and_a_longer_time(served: Served, tab: Open) -> None:
    served.queue.enqueue(shop.send_welcome, 1).result(20)
    page = tab(served)
    page.get_by_role("link", name="History of main").click()
    page.get_by_role("combobox", name="Queue").fill("emails")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("img", name=re.compile(r"Throughput per minute over 1 hour: enqueued 1, "))).to_be_visible()
    page.get_by_role("link", name="30 days").click()
    expect(page.get_by_role("img", name=re.compile(r"over 30 days: enqueued 1, succeeded 1;"))).to_be_visible()
    expect(page.get_by_role("combobox", name="Queue")).to_have_value("emails")
    served.queue.enqueue(shop.send_welcome, 2)
    expect(page.get_by_role("img", name=re.compile("enqueued 2"))).to_be_visible(timeout=25_000)  # without a reload


def focus(page: Page, name: str) -> None:
    """Press Tab until the link or button with this name has the focus, and check that the focus is visible."""
    for _ in range(60):
        page.keyboard.press("Tab")
        style, text = page.evaluate(
            "[getComputedStyle(document.activeElement).outlineStyle, document.activeElement.textContent.trim()]"
        )
        assert style == "solid", f"the focus on {text!r} is not visible"
        if text == name:
            return
    raise AssertionError(f"no element with the name {name!r} can be reached with the Tab key")


def test_all_dead_jobs_are_retried_without_javascript(served: Served, tab: Open) -> None:
    for number in range(3):
        served.queue.dead_letters.add(shop.charge.job(f"o-{number}", {}), "the bank was closed")
    shop.bank_answers.set()
    page = tab(served, "/main/jobs?state=dead", java_script_enabled=False)
    page.get_by_role("link", name="Retry all that match").click()
    expect(page.get_by_text("This will retry 3 dead jobs")).to_be_visible()
    page.get_by_role("button", name="Retry all 3 jobs").click()
    expect(page.get_by_text("3 jobs were queued.").first).to_be_visible()
    eventually(lambda: served.queue.stats().queues["payments"].succeeded == 3, 20)


def test_a_bulk_change_is_followed_and_aborted(served: Served, tab: Open) -> None:
    for number in range(60):
        served.queue.dead_letters.add(shop.charge.job(f"o-{number}", {}), "the bank was closed")
    page = tab(served, "/main/jobs?state=dead")
    page.get_by_role("link", name="Discard all that match").click()
    page.get_by_label("Maximum number of jobs a second").fill("2")
    page.get_by_role("button", name="Discard all 60 jobs").click()
    expect(page.get_by_role("heading", name="Discard all on main")).to_be_visible()
    expect(page.get_by_text("limited to 2")).to_be_visible()
    expect(page.locator("dd.changed")).to_have_text(re.compile("[4-9]|[1-5][0-9]"))  # without a reload
    assert not scrolls_sideways(page)
    assert Axe().run(page).violations_count == 0
    focus(page, "Abort")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text(
        re.compile(r"It was aborted by local\. \d+ jobs were discarded")
    )
    expect(page.get_by_role("button", name="Abort")).to_be_hidden()
    left = served.queue.dead_letters.count()
    assert 0 < left < 60
    expect(page.locator("dd.changed")).to_have_text(str(60 - left))
    page.get_by_role("link", name="Audit log").click()
    page.get_by_role("link", name="discard 60 dead jobs").click()
    expect(page.get_by_text("It was aborted by local.")).to_be_visible()


def test_a_bulk_change_is_aborted_without_javascript(served: Served, tab: Open) -> None:
    for number in range(60):
        served.queue.dead_letters.add(shop.charge.job(f"o-{number}", {}), "the bank was closed")
    page = tab(served, "/main/actions/discard-all?state=dead", java_script_enabled=False)
    page.get_by_label("Maximum number of jobs a second").fill("2")
    page.get_by_role("button", name="Discard all 60 jobs").click()
    expect(page.get_by_text("It runs.")).to_be_visible()
    eventually(lambda: page.reload() and int(page.locator("dd.changed").inner_text()) >= 4, 20)
    page.get_by_role("button", name="Abort").click()
    eventually(lambda: page.reload() and "It was aborted by local." in (page.text_content("#live") or ""), 20)
    assert 0 < served.queue.dead_letters.count() < 60


def test_hostile_content_does_nothing(served: Served, tab: Open) -> None:
    letters = served.queue.dead_letters
    ids = [letters.add(shop.charge.job(text, {"name": text}), text).id for text in HOSTILE]
    name = "<img/src=x/onerror=window.hacked=1>"
    ids.append(served.queue.enqueue(name, *HOSTILE).id)
    pages = ["/", "/main/jobs", *(f"/main/jobs/{job_id}" for job_id in ids)]
    pages += [f"/main/actions/replay?id={job_id}" for job_id in ids]
    pages += [
        f"/main/actions/cancel?id={ids[-1]}",
        "/main/history?task=%3Cscript%3Ewindow.hacked=1%3C/script%3E",
        "/main/jobs?task=%3Cscript%3Ewindow.hacked=1%3C/script%3E",
    ]
    page = tab(served)
    for size in WIDTHS:
        width, height = WIDTHS[size]
        page.set_viewport_size({"width": width, "height": height})
        for path in pages:
            page.goto(path)
            assert page.evaluate("typeof window.hacked") == "undefined"
            assert (
                page.evaluate("document.querySelectorAll('#content script, #content img, #content style').length") == 0
            )
            assert not scrolls_sideways(page), path
    page.goto(f"/main/jobs/{ids[0]}")
    expect(page.get_by_role("group", name="Positional arguments")).to_contain_text(HOSTILE[0])


def scrolls_sideways(page: Page) -> bool:
    """True if the page, not only a table in it, is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_are_accessible_and_fit(served: Served, tab: Open, scheme: str, size: str) -> None:
    """Axe finds nothing to object to: contrast AA, names, roles, landmarks. No page scrolls sideways."""
    job_id = dead_payment(served)
    running = served.queue.enqueue(shop.write_report, "2026-11").id
    served.queue.enqueue(shop.send_welcome.using(delay=600), 1)
    served.queue.pause("emails", "the mail server is down")
    served.queue.schedules.add(
        "monthly-report", shop.write_report.job("2026-11"), cron="0 3 1 * *", timezone="Europe/Berlin"
    )
    replay = served.queue.replay(job_id).id
    eventually(lambda: served.queue.status(running).progress, 20)
    paths = ["/", "/main/jobs", "/main/jobs?state=dead", f"/main/jobs/{job_id}", f"/main/jobs/{running}"]
    paths += ["/main/history", f"/main/actions/replay?id={job_id}", f"/main/jobs/{replay}"]
    paths += [f"/main/actions/discard?id={job_id}", "/main/actions/resume?queue=emails", "/audit"]
    paths += ["/main/actions/discard-all?state=dead"]
    page = tab(served, size=size, color_scheme=scheme)
    for path in paths:
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_attached()
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert not scrolls_sideways(page), path


def test_a_lost_dashboard_is_announced(served: Served, tab: Open) -> None:
    page = tab(served, strict=False)
    page.route("**/*", lambda route: route.fulfill(status=503, body="down"))
    expect(page.get_by_text("The dashboard does not answer")).to_be_visible()
    expect(page.locator(".tiles")).to_be_visible()  # the last numbers stay
    page.unroute("**/*")
    expect(page.get_by_text("The dashboard does not answer")).to_be_hidden()
