"""A module of an app that calls `join` itself. For `test_joining`."""

from queueport_rq import join

__all__: list[str] = []

join("legacy_shop.resize", "legacy_shop.refuse", "legacy_shop.slow")
