"""Signs messages and checks their signatures: the setting `signing_key`. For `Message` and the settings.

A signature covers what a worker uses of a message, see `docs/security.md#signed-messages`. It does not cover the bytes
of the body, because frameworks decode the body and encode it again.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

__all__ = ["SIGNATURE_SIZE", "Signer", "SigningKeys"]

SHORTEST_KEY = 32
"""Minimum characters of a key: 128 bits as hexadecimal digits, or 192 bits as base64."""
UNSIGNED = "unsigned"
"""The word that, in place of a further key, makes workers accept messages without a signature."""
SIGNATURE_SIZE = 64
"""Characters of a signature: the 256 bits of HMAC-SHA256 as hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The value of the setting `signing_key`. Its repr and its str show no key."""

    text: str = field(repr=False)
    """The setting as it was given."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check the keys in a text such as `NEW,OLD` or `KEY,unsigned`. Raises ValueError, which shows no key."""
        first, *others = [key.strip() for key in text.split(",")]
        if any(len(key) < SHORTEST_KEY for key in (first, *(key for key in others if key != UNSIGNED))):
            raise ValueError(
                f"write keys of at least {SHORTEST_KEY} characters, separated by commas: `openssl rand -hex 32` makes "
                f"one. Only the word '{UNSIGNED}' may be shorter, after the first key"
            )
        return cls(text)

    def signer(self, namespace: str) -> Signer:
        """The signer with these keys for the messages of a namespace."""
        words = [key.strip() for key in self.text.split(",")]
        keys = [key.encode(errors="surrogateescape") for key in words if key != UNSIGNED]
        return Signer(namespace, tuple(keys), UNSIGNED in words)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs messages with the first key, and accepts the signatures of each key. Thread-safe; its repr shows no key."""

    namespace: str
    """A part of what is signed, so that a message is not valid in another namespace."""
    keys: tuple[bytes, ...] = field(repr=False)
    accepts_unsigned: bool = False
    """True if workers accept messages without a signature. A message with a wrong signature is never accepted."""

    def sign(self, fields: Sequence[object]) -> str:
        """The signature of a message with these fields: those that a worker uses."""
        return self._signatures(fields, self.keys[:1])[0]

    def problem(self, fields: Sequence[object], signature: object) -> str | None:
        """Why a message with these fields and this signature (None: without one) is not accepted, for NotAMessage.

        None if it is accepted.
        """
        if signature is None:
            if self.accepts_unsigned:
                return None
            return "not signed; set signing_key for its producer too, unless somebody else has sent it"
        given = str(signature).encode(errors="replace")
        if any(hmac.compare_digest(each.encode(), given) for each in self._signatures(fields, self.keys)):
            return None
        return "signed with a key that this worker does not have, or was changed after it was signed"

    def _signatures(self, fields: Sequence[object], keys: Iterable[bytes]) -> list[str]:
        signed = json.dumps(["queueport-message-1", self.namespace, *fields]).encode()
        return [hmac.digest(key, signed, "sha256").hex() for key in keys]
