"""The options of `rq+redis://` URLs and their like. For users, by the table in the README, and for the driver."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from queueport.stores.redis_url import RedisServerOptions
from queueport.url import BackendURL

__all__ = ["RQOptions", "redis_url"]

PREFIX = "rq+"


class RQOptions(RedisServerOptions):
    """RQ's own beside those of the Redis; another one is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    keep: int = Field(500, ge=1, description="seconds that RQ's own tools show a message that has done its work")


def redis_url(url: BackendURL) -> BackendURL:
    """The Redis of that backend's URL, as the URL of a store."""
    options = {name: value for name, value in url.options.items() if name in RedisServerOptions.model_fields}
    return BackendURL(url.text.removeprefix(PREFIX), options)
