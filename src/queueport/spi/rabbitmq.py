"""Reads error texts of the RabbitMQ server. For the adapters on RabbitMQ, which use different client libraries."""

from __future__ import annotations

import re

__all__ = ["size_limit"]

SIZE: re.Pattern[str] = re.compile(r"message size \d+ (?:is )?larger than (?:configured )?max size (\d+)")
"""Matches the error for a message that is too large, which differs between versions. Group 1 is the limit."""


def size_limit(text: str) -> int | None:
    """The server's limit for the body of a message, in bytes, if `text` says that a message was too large; else None.

    The limit is RabbitMQ's setting `max_message_size`: https://www.rabbitmq.com/docs/configure#config-items
    """
    found = SIZE.search(text)
    return None if found is None else int(found[1])
