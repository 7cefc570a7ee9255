"""An existing application on Dramatiq and Redis. For `test_joining`."""

from __future__ import annotations

import os

from dramatiq.brokers.redis import RedisBroker

from adapters.dramatiq.tests import legacy

broker = RedisBroker(url=os.environ.get("LEGACY_REDIS", "redis://127.0.0.1:6379/0"))  # type: ignore[no-untyped-call]  # Dramatiq has no types here
legacy.declare(broker)
