"""What a `celery+redis://` or `celery+amqp://` URL may hold beside queueport's own options. For the driver."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

__all__ = ["CeleryOptions"]


class CeleryOptions(BaseModel):
    """None so far: what needs more of Celery's settings joins an app that has them, `celery://package.module:app`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
