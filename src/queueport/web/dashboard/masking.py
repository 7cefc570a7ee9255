"""Hides secrets in the arguments, results, headers and errors that the dashboard shows. For the pages."""

from __future__ import annotations

import inspect
import re
from typing import Any

from queueport.errors import ConfigurationError
from queueport.spi.url import hidden
from queueport.status import JobStatus
from queueport.tasks import registry

__all__ = ["MASK", "MASKED_NAMES", "Masking"]

MASKED_NAMES = r"pass(word|wd|phrase)|pwd|secret|token|credential|authorization|cookie|keys?$"
"""Matches the names of values that the pages do not show. It is searched in the name, and case does not matter."""
MASK = "•••"
"""Is shown in place of a secret."""


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
            names += [parameter.name] * (len(job.args) if parameter.kind is parameter.VAR_POSITIONAL else 1)
        names += [""] * len(job.args)
        return [self.value(argument, name) for argument, name in zip(job.args, names, strict=False)]
