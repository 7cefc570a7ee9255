"""The site that `nox -s docs` has built: its API pages are complete, all text is rendered, and nothing is loaded from
elsewhere.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import queueport
from queueport import web
from queueport.contrib import django, fastapi, flask, opentelemetry
from queueport.testing import KIT
from queueport.web import dashboard

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
MARKDOWN = re.compile(r"```|~~~|\]\(|^\s*(?:[-*|#>] |\d+\. |:::|\|)|<!--|\*\*\w", re.MULTILINE)
"""Markdown that was not understood: a fence, a link, a list, a table or a heading in the text of a paragraph."""


class Html(HTMLParser):
    """What the tests need of a page: the text of its paragraphs, its ids, and what it loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.paragraphs: list[str] = []
        self._inside: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values["href"])
        if tag in ("p", "code", "script", "style"):
            self._inside.append(tag)
            if tag == "p":
                self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["p"]:
            self.paragraphs[-1] += data


def test_the_site_was_built() -> None:
    assert {"index.html", "tutorial.html", "api.html", "CHANGELOG.html"} <= set(PAGES), "run `nox -s docs`"


@pytest.mark.parametrize("page", PAGES)
def test_no_markdown_is_left_in_the_text(page: str) -> None:
    assert [text for text in Html(SITE / page).paragraphs if MARKDOWN.search(text)] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_from_elsewhere(page: str) -> None:
    assert [url for url in Html(SITE / page).loaded if re.match(r"(?:\w+:)?//", url)] == []


def test_the_stylesheets_load_nothing_from_elsewhere() -> None:
    sheets = list(SITE.rglob("*.css"))
    assert sheets
    assert [sheet.name for sheet in sheets if re.search(r"url\([\"']?(?:\w+:)?//|@import", sheet.read_text())] == []


def public() -> Iterator[str]:
    """The names that applications import, and the methods and properties, with a docstring, of classes among them."""
    modules = {
        "queueport": [name for name in queueport.__all__ if name not in ("errors", "task")],
        "queueport.errors": queueport.errors.__all__,
        "queueport.testing": list(KIT),
        "queueport.contrib.django": django.__all__,
        "queueport.contrib.fastapi": fastapi.__all__,
        "queueport.contrib.flask": flask.__all__,
        "queueport.contrib.opentelemetry": opentelemetry.__all__,
        "queueport.web": web.__all__,
        "queueport.web.dashboard": dashboard.__all__,
    }
    for module, names in modules.items():
        for name in names:
            yield f"{module}.{name}"
            value = None if module.endswith("django") else getattr(importlib.import_module(module), name)
            if inspect.isclass(value) and value.__module__.startswith("queueport"):
                members = {each: member for each, member in vars(value).items() if not each.startswith("_")}
                own = (each for each, member in members.items() if callable(member) or isinstance(member, property))
                yield from (f"{module}.{name}.{each}" for each in own if members[each].__doc__)


def test_the_api_page_has_every_public_name() -> None:
    ids = Html(SITE / "api.html").ids
    assert [name for name in public() if name not in ids] == []
