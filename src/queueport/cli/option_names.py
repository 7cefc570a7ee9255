"""Puts the names of options in place of the names of arguments into the errors of the core. For `with_queue`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from inspect import Parameter
from typing import NamedTuple

from typer.models import OptionInfo

UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))
"""The units of a length of time, with their seconds."""


class Option(NamedTuple):
    """The name of an option, and whether its value is a length of time."""

    name: str
    takes_time: bool


def options_of(parameters: Iterable[Parameter], parsers: Iterable[Callable[[str], object]]) -> dict[str, Option]:
    """The options of a command by the names of arguments. Those with one of these parsers take a length of time."""
    found = {}
    for parameter in parameters:
        for info in getattr(parameter.annotation, "__metadata__", ()):
            name = info.default if isinstance(info, OptionInfo) else None  # typer.Option("--name") stores it there
            if isinstance(name, str) and name.startswith("--"):
                takes_time = any(info.parser is parser for parser in parsers)
                option = Option(name.partition("/")[0], takes_time)
                found[parameter.name] = found[parameter.name.removesuffix("_name")] = option
    return found


def with_option_names(text: str, options: dict[str, Option]) -> str:
    """The text of an error with `--key-mode` in place of `key_mode=`, and with words for the shell instead of Python.

    A length of time such as `since=5184000.0` is shown with a unit, `--since 60d`.
    """
    if not options:
        return text
    names = "|".join(sorted(options, key=len, reverse=True))

    def option(found: re.Match[str]) -> str:
        chosen, number, following = options[found[1]], found[2], found[3]
        if number is None:
            return chosen.name if following in ("", *" ,;:.)") else f"{chosen.name} "
        return f"{chosen.name} {_length(float(number)) if chosen.takes_time else number}"

    text, times = re.subn(rf"(?<![\w.?&'\"=-])({names})=(\d+\.\d+(?![\w.]))?(?=(.?))", option, text)
    for name, (shown, _) in options.items():
        if "_" in name:  # not a word of plain English
            text = re.sub(rf"(?<![\w.?&'\"=-]){name}(?![\w.='\"])", shown, text)
    text = re.sub(rf"\b({names}) and (?=--)", lambda found: f"{options[found[1]].name} and ", text)
    if times:
        text = text.replace(", in seconds", "").replace("or None for", "or leave it out for")
    return text


def _length(seconds: float) -> str:
    for size, unit in UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
