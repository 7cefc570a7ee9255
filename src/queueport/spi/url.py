"""Parses the URLs of backends and stores, and hides the passwords in them. For adapters and `get_queue`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from queueport.errors import ConfigurationError

__all__ = ["BackendURL", "KeepByName", "KeepCount", "hidden", "names_secret"]

HIDDEN_OPTIONS = r"[a-z_]*(?:pass|password|passwd|passphrase|pwd|secret|token|(?:api|access|signing)_?key)"
"""Matches the names of options whose values are secrets."""
SECRET_OPTIONS = re.compile(  # matches secret options of a URL, and of a percent-encoded URL that is nested in it
    rf"([?&]{HIDDEN_OPTIONS}=)[^&\s'\"]+|((?:%3F|%26){HIDDEN_OPTIONS}%3D)(?:(?!%26)[^&\s'\"])+", re.IGNORECASE
)
LOGINS = re.compile(
    r"(://[^:/?#\s@]*:)(?:(?!://)\S)*(?=@)"  # a password ends at the last @, because it may contain @
    r"|(://)[^:/?#\s@]+(?=@)"  # a login without a colon may be a token
    # the password of a percent-encoded nested URL, which ends before the next one, so that the time is linear
    r"|(%3A%2F%2F(?:(?!%3A)[^\s&@])*%3A)(?:(?!%3A%2F%2F)[^\s&])*?(?=%40)",
    re.IGNORECASE,
)
PLACES = re.compile(r"(?:(?:[^:@,\[\]]+|\[[^@\[\]]*\])(?::\d+)?(?:,|$))*")
"""Matches a list of hosts, with or without ports, separated by commas."""


@dataclass(frozen=True, slots=True)
class KeepCount:
    """Retention by the number of jobs instead of by age. In a setting it is written as `1000 jobs`, or as
    `100 jobs per queue` or `100 jobs per task`.
    """

    jobs: int
    per: Literal["queue", "task"] | None = None
    """Whether this number of jobs is kept for each queue, for each task, or in all queues together (None)."""

    def __str__(self) -> str:
        return f"{self.jobs} jobs" + (f" per {self.per}" if self.per else "")


@dataclass(frozen=True, slots=True)
class KeepByName:
    """Retention that differs between queues, or between tasks. In a setting it is written as
    `1d, queue:emails=100 jobs, queue:logs=1h`.
    """

    others: float | KeepCount
    """The retention of all other queues or tasks: a number of seconds, or a number of jobs for each of them."""
    by: Literal["queue", "task"]
    named: Mapping[str, float | KeepCount]
    """By the name of a queue or task: a number of seconds, or a number of jobs."""

    def __str__(self) -> str:
        named = [f"{self.by}:{name}={_kept(keep)}" for name, keep in self.named.items()]
        return ", ".join([_kept(self.others), *named])


def _kept(keep: float | KeepCount) -> str:
    return str(keep) if isinstance(keep, KeepCount) else f"{keep}s"


@dataclass(frozen=True, slots=True)
class BackendURL:
    """The URL of a backend or store, with parsed options. Its str hides secrets, and its repr shows no part of it."""

    text: str = field(repr=False)
    """The URL without its options."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL. White space around it is removed, because a file or a secret often ends with a line break.

        Raises ConfigurationError if the URL does not begin with a scheme in lower case and `://`, has an option twice,
        contains a control character, has options that are not valid UTF-8, or seems to have a login that is not
        percent-encoded.
        """
        text = text.strip()
        scheme, found, rest = text.partition("://")
        if not found or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
            shown = hidden(f"***{text[text.rindex('@') :]}" if "@" in text else text)
            raise ConfigurationError(f"{shown!r} is not a URL: write one such as 'sqlite:///jobs.db'")
        if any(unicodedata.category(character) == "Cc" for character in unquote(text)):
            raise ConfigurationError(
                f"the {scheme}:// URL contains a line break or another control character: remove it"
            )
        base, _, query = text.partition("?")
        if any("\ud800" <= character <= "\udfff" for character in query):  # Python's form of bytes that are not UTF-8
            raise ConfigurationError(f"an option of the {scheme}:// URL is not valid UTF-8: correct the URL")
        pairs = parse_qsl(query, keep_blank_values=True)
        names = [name for name, _ in pairs]
        if _misread(rest) or any("@" in pair[0] or ("@" in pair[1] and not pair[0].isidentifier()) for pair in pairs):
            raise ConfigurationError(
                f"the {scheme}:// URL has an '@' after a '/', '?' or '#', so its password is probably not encoded: "
                "in user, password and path, write '@' as %40, '/' as %2F, '?' as %3F and '#' as %23"
            )
        parsed = cls(base.rstrip(), dict(pairs))
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(
                f"{parsed.shown!r} has option {twice!r} twice: keep one, or percent-encode a nested URL"
            )
        return parsed

    @property
    def scheme(self) -> str:
        """The part before `://`."""
        return self.text.partition("://")[0]

    @property
    def parts(self) -> SplitResult:
        """The URL without its options, as `urlsplit` returns it. User and password are still encoded."""
        return urlsplit(self.text)

    @property
    def path(self) -> str:
        """The percent-decoded path, without the slash after the host."""
        return unquote(self.text.partition("://")[2].partition("/")[2])

    @property
    def full(self) -> str:
        """The whole URL: with its options, and with passwords as they are."""
        return f"{self.text}?{urlencode(self.options)}" if self.options else self.text

    @property
    def shown(self) -> str:
        """The URL without its options, for errors and logs. `***` replaces the password, or a login without a colon."""
        return _shown(self.text)

    def __str__(self) -> str:
        options = {name: "***" if names_secret(name) else _shown(value) for name, value in self.options.items()}
        return f"{self.shown}?{urlencode(options, safe='*/:')}" if options else self.shown


def names_secret(option: str) -> bool:
    """True if the value of an option with this name is a secret."""
    return re.fullmatch(HIDDEN_OPTIONS, option, re.IGNORECASE) is not None


def hidden(text: str) -> str:
    """Hide the secrets of every URL in the text.

    `***` replaces each password, each login without a colon, and the value of each option whose name matches
    HIDDEN_OPTIONS.
    """
    for pattern in (SECRET_OPTIONS, LOGINS):
        text = pattern.sub(lambda found: next(group for group in found.groups() if group) + "***", text)
    return text


def _shown(text: str) -> str:
    """Hide the secrets of one URL, like `hidden`, but even if its password contains `/`, `?` or `@`."""
    scheme, found, rest = text.partition("://")
    login, _, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    if found and login and not re.search(r"[/?#]", user):
        text = f"{scheme}://{user + colon if colon else ''}***@{place}"
    return hidden(text)


def _misread(rest: str) -> bool:
    """True if `rest`, a URL without its scheme, seems to have a login with an unencoded '/', '?' or '#'.

    Host, path and options would then contain parts of the password. Nested URLs are not examined.
    """
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(place) :].partition("://")[0].partition("?")
    return place != "" and ("@" in path or ("@" in query and PLACES.fullmatch(place) is None))
