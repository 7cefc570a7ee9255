"""The options of `amqp://` and `amqps://` URLs. For users, by the table in the README, and for `server`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TLS_OPTIONS", "RabbitMQOptions"]

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

TLS_OPTIONS = ("cacertfile", "certfile", "keyfile", "verify")
"""Named as in RabbitMQ's own URIs: https://www.rabbitmq.com/docs/uri-query-parameters"""


class RabbitMQOptions(BaseModel):
    """The options beside queueport's own; another one is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    queue_type: Literal["quorum", "classic"] = Field(
        "quorum", description="of the queues that carry jobs: `quorum` is replicated, `classic` knows priorities"
    )
    management: str | None = Field(  # not in the repr, for it may hold a password
        None,
        repr=False,
        pattern=r"^https?://.",
        description="URL of the management API, for the count of unacknowledged messages and for alarms",
    )
    heartbeat: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="seconds until a silent connection counts as lost; as the server has it if unset",
    )
    socket_timeout: Seconds | None = Field(
        None, description="seconds that a TCP connection may take; `call_timeout` if unset"
    )
    stack_timeout: Seconds | None = Field(
        None, description="seconds that TCP, TLS and login may take together; 0.9 `call_timeout` if unset"
    )
    blocked_connection_timeout: Seconds | None = Field(
        None, description="a connection that the server blocks for so many seconds is given up"
    )
    frame_max: int | None = Field(None, ge=4_096, le=131_072, description="largest AMQP frame, in bytes")
    cacertfile: str | None = Field(None, description="PEM file of the CA that signed the server's certificate")
    certfile: str | None = Field(None, description="PEM file of this client's certificate")
    keyfile: str | None = Field(None, description="PEM file of its key, where that is not in `certfile`")
    verify: Literal["verify_peer", "verify_none"] = Field(
        "verify_peer", description="`verify_none` takes any certificate of the server's: for experiments only"
    )
