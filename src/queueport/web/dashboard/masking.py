"""Hides secrets in the arguments, results, headers and errors that the dashboard shows. For the pages."""

from __future__ import annotations

import inspect
import re
from typing import Any

from queueport.errors import ConfigurationError
from queueport.spi.url import hidden
from queueport.status import JobStatus
from queueport.tasks import registry

__all__ = ["MASK", "MASKED_NAMES", "Masking", "unmasked"]

MASKED_NAMES = r"pass(word|wd|phrase)|pwd|secret|token|credential|authorization|cookie|keys?$"
"""Matches the names of values that the pages do not show. It is searched in the name, and case does not matter."""
MASK = "•••"
"""Is shown in place of a secret."""


HIDDEN_PASSWORD = re.compile(r"://[^/\s]*:\*\*\*@")
"""Matches a URL whose password is hidden."""


class Masking:
    """Replaces each value whose name matches a regular expression, and the passwords in URLs.

    Raises ConfigurationError if `mask` is not a valid regular expression.
    """

    def __init__(self, mask: str = MASKED_NAMES) -> None:
        try:
            self._secret = re.compile(mask, re.IGNORECASE)
        except re.error as error:
            raise ConfigurationError(f"mask={mask!r} is not a regular expression: {error}") from None

    def value(self, value: Any, name: str = "") -> Any:
        """A copy of a JSON value without secrets. `name` is the name of the value itself; "" if it has none."""
        if name and self._secret.search(name):
            return MASK
        if isinstance(value, dict):
            return {key: self.value(item, str(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return hidden(value) if isinstance(value, str) else value

    def args(self, job: JobStatus) -> list[Any]:
        """The positional arguments without secrets. Their names are known if this process has registered the task."""
        task = registry.get(job.task)
        function = None if task is None else task.function
        names = list[str]()
        for parameter in () if function is None else inspect.signature(function).parameters.values():
            names += [parameter.name] * (1 + len(job.args) if parameter.kind is parameter.VAR_POSITIONAL else 1)
        names = names[int(job.pass_result) :] + [""] * len(job.args)  # a result is an argument before those in `args`
        return [self.value(argument, name) for argument, name in zip(job.args, names, strict=False)]


def unmasked(edited: Any, shown: Any, original: Any, place: str) -> Any:
    """The edited JSON value, with the hidden values of the original in place of what was shown of them.

    `shown` is what `Masking` has made of `original`. A value stays hidden only where it was, as long as the objects and
    lists around it have kept their keys and lengths. `place` names the value for the error. Raises ValueError for a
    hidden value in another place.
    """
    if isinstance(edited, str):
        if edited == shown:
            return original
        if edited == MASK or HIDDEN_PASSWORD.search(edited):
            raise ValueError(f"{place} contains a hidden value that was not there: write the value itself")
        return edited
    if isinstance(edited, dict):
        befores, values = (each if isinstance(each, dict) else {} for each in (shown, original))
        return {
            name: unmasked(item, befores.get(name), values.get(name), f"{place}.{name}")
            for name, item in edited.items()
        }
    if isinstance(edited, list):
        same = isinstance(shown, list) and isinstance(original, list) and len(shown) == len(original) == len(edited)
        pairs = zip(shown, original, strict=True) if same else [(None, None)] * len(edited)
        return [
            unmasked(item, before, value, f"{place}[{number}]")
            for number, (item, (before, value)) in enumerate(zip(edited, pairs, strict=True))
        ]
    return edited
