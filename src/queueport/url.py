"""URLs of backends and stores, with their passwords hidden. For adapters and `get_queue`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from queueport.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["BackendURL", "KeepCount", "hidden", "nearest"]

Model = TypeVar("Model", bound="BaseModel")

SECRETS = re.compile(
    r"""(://[^:/?\#\s@]*:)(?:(?!://)[^\s'"])*(?=@)"""  # up to the last @, for a password may hold one unencoded
    r"|(%3A%2F%2F(?:(?!%3A)[^\s&@])*%3A)[^\s&]*?(?=%40)"  # the same in a nested URL
    r"|([?&][a-z_]*(?:password|passwd|secret|token)=)[^&\s'\"]+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class KeepCount:
    """Retention by number of jobs instead of age; written `1000 jobs`."""

    jobs: int


@dataclass(frozen=True, slots=True)
class BackendURL:
    """A URL of a backend or a store, its options apart. Its text and repr hide the password."""

    text: str = field(repr=False)
    """The URL as given, without queueport's own parameters."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split a URL. Raises ConfigurationError where it has no scheme."""
        if not re.match(r"[a-z][a-z0-9+.-]*://", text):
            shown = hidden(text) if "://" in text else hidden(f"://{text}").removeprefix("://")
            raise ConfigurationError(
                f"{shown!r} is not a URL: write one such as 'sqlite:///jobs.db' or 'redis://localhost:6379/0'"
            )
        base, _, query = text.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"{hidden(base)!r} has the option {twice!r} twice; percent-encode a nested URL")
        return cls(base, dict(pairs))

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return self.text.partition("://")[0]

    @property
    def parts(self) -> SplitResult:
        """The URL split by the standard library; user and password still encoded."""
        return urlsplit(self.text)

    @property
    def path(self) -> str:
        """The path, decoded, without the slash that ends the host part."""
        return unquote(self.text.partition("://")[2].partition("/")[2])

    @property
    def full(self) -> str:
        """The URL with its options, as a client library takes it."""
        return f"{self.text}?{urlencode(self.options)}" if self.options else self.text

    def settings(self, model: type[Model]) -> Model:
        """The options as that model. Raises ConfigurationError for an unknown name or a wrong value."""
        from queueport.settings import validated  # which takes pydantic: not before it is needed

        return validated(model, self.options, hidden(self.text))

    def __str__(self) -> str:
        return hidden(self.full)


def hidden(text: str) -> str:
    """The text with every password in a URL replaced by `***`."""
    return SECRETS.sub(lambda found: next(group for group in found.groups() if group) + "***", text)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is near, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1, 0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else "; there are none"
