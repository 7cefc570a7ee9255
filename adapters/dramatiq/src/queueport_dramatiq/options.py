"""The options of the adapter's URLs. For users, by the table in the README, and for the links."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AppOptions", "RabbitMQOptions"]


class RabbitMQOptions(BaseModel):
    """Of `dramatiq+amqp://` and `dramatiq+amqps://`, beside queueport's own; another one is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    heartbeat: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="seconds until a silent connection counts as lost; as the server has it if unset",
    )
    cacertfile: str | None = Field(None, description="PEM file of the CA that signed the server's certificate")


class AppOptions(BaseModel):
    """Of `dramatiq://MODULE:BROKER`: there are none, for the application has made its broker."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
