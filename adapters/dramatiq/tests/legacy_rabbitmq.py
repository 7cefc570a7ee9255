"""An existing application on Dramatiq and RabbitMQ. For `test_joining`."""

from __future__ import annotations

import os

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from adapters.dramatiq.tests import legacy

broker = RabbitmqBroker(url=os.environ.get("LEGACY_AMQP", "amqp://127.0.0.1:5672"))
legacy.declare(broker)
