"""Turns values into texts that are safe to show: control characters, durations, times, JSON. For pages and logs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

__all__ = ["EDITABLE", "ago", "due", "duration", "editable", "json_text", "moment", "visible"]

LONG = 20_000
"""The maximum number of characters of a value or a text on a page."""
EDITABLE = 200_000
"""The maximum number of characters of arguments in a form."""


def visible(text: str, kept: str = "") -> str:
    """The text with escape sequences in place of unprintable characters, except those in `kept`.

    This includes line ends, control characters, lone surrogates and characters that change the direction of text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, length: int = LONG) -> str:
    """The text. If it is longer than `length`, its first `length` characters and a note of the full length."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def json_text(value: Any) -> str:
    """The value as JSON: indented, or shortened on one line if it is very long."""
    indented = json.dumps(value, indent=2, ensure_ascii=False)
    return indented if len(indented) <= LONG else shortened(json.dumps(value, ensure_ascii=False))


def editable(value: Any) -> str | None:
    """The value as indented JSON to edit, in which escape sequences stand for unprintable characters. None if it is
    longer than EDITABLE.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > EDITABLE:
        return None
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def duration(seconds: float | None) -> str:
    """A duration such as "350 ms", "4.2 s", "3 min" or "2 d"; empty for None."""
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def ago(at: datetime) -> str:
    """The time since `at`, or until then, rounded, such as "3 min ago" or "in 5 s"."""
    seconds = (datetime.now(UTC) - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {duration(-seconds)}" if seconds < 0 else f"{duration(seconds)} ago"


def due(at: datetime) -> str:
    """The time until `at`, such as "in 5 s"; "now" if it has passed."""
    return "now" if at <= datetime.now(UTC) else ago(at)


def moment(at: datetime) -> str:
    """The time in UTC, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
