"""The Redis store, and the Redis client that adapters share with it.

Adapters may import these names, and nothing from the modules of this package:

    RedisServerOptions   the base class for the options of URLs that name one Redis server
    parse                reads a URL; returns a `Target`: the address and login of a server or of its sentinels
    Redis                sends commands to that server, within a timeout
    Script               the text of a Lua script, which `Redis.run` runs
    Idle                 a pool of unused connections, which is empty in a child process after a fork
    connect              makes a client of redis-py, for a framework that needs such a client
    encoded              the bytes of an argument of a command
    FAILURES             the exceptions that redis-py raises if a call to a server fails
    opened               connects a connection of redis-py, and closes it after an error
    close_unused         closes the connections of a redis-py client that no call is using
    not_connected        True for an error of `Redis` if no command was sent
    unavailable          makes the `BackendUnavailable` for an error of redis-py
"""

from queueport.stores.redis.connection import Idle, Redis, close_unused, connect, opened
from queueport.stores.redis.health import FAILURES, not_connected, unavailable
from queueport.stores.redis.lua import Script
from queueport.stores.redis.records import encoded
from queueport.stores.redis.url import RedisServerOptions, Target, parse

__all__ = [
    "FAILURES",
    "Idle",
    "Redis",
    "RedisServerOptions",
    "Script",
    "Target",
    "close_unused",
    "connect",
    "encoded",
    "not_connected",
    "opened",
    "parse",
    "unavailable",
]
