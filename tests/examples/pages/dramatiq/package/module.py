"""The broker that the page on Dramatiq joins."""

from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url="redis://localhost:6379/0")
