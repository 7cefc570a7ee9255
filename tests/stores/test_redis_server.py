"""The Redis store and its server: restarts, hangs, forks, Unix sockets, sentinels and clusters."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import redis

from queueport.errors import BackendUnavailable, QueueportError
from queueport.spi.record import Change
from queueport.spi.store import Begin, Insert, LeaseRenewal, Query, Swap
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.stores.redis.store import RedisStore
from queueport.testing.redis_store import Redis
from queueport.testing.servers import free_port
from queueport.testing.stores.harness import bare, put
from queueport.testing.waiting import eventually
from tests.servers import redis_server

HANG = 0.5
"""`call_timeout` in these tests, in seconds."""

CALLS: dict[str, Callable[[RedisStore], object]] = {
    "insert": lambda store: store.insert([Insert(bare(), Change(), "r")]),
    "get": lambda store: store.get(["a"]),
    "find": lambda store: store.find(Query()),
    "count": lambda store: store.count(Query()),
    "swap": lambda store: store.swap([Swap("a", "r", Change({"sends": 1}), "r2")]),
    "begin": lambda store: store.begin([Begin("a", "app.send", Change(), "r")]),
    "claim_due": lambda store: store.claim_due(1, 1.0, "r"),
    "unreceived": lambda store: store.unreceived("q", 0, 1.0, 1),
    "overflow": lambda store: store.overflow(Query(JobState.DEAD), 0, 1),
    "heartbeat": lambda store: store.heartbeat([LeaseRenewal("a", "t", 1.0, "r")]),
    "stats": lambda store: store.stats(),
    "announce": lambda store: store.announce(WorkerStats("w", (), (), datetime.now(UTC)), 1.0),
    "workers": lambda store: store.workers(),
    "wait": lambda store: store.wait(["a"], 0.0),
    "now": lambda store: store.now(),
    "check": lambda store: store.check(),
}


@contextmanager
def opened(url: str, **options: Any) -> Iterator[RedisStore]:
    """Open a store in a namespace of its own."""
    store = RedisStore(url, namespace=f"test{uuid4().hex[:12]}", **options)
    yield store
    store.close()


@contextmanager
def started(*options: str) -> Iterator[Redis]:
    """Start a server with these options."""
    server = Redis(*options)
    yield server
    server.kill()


@pytest.fixture
def store() -> Iterator[RedisStore]:
    with opened(redis_server(private=True).url, call_timeout=HANG) as store:
        yield store


def refusal(url: str, **options: Any) -> str:
    """The error that a store raises about a server that it cannot use. Its cause must be the library's own error."""
    with opened(url, **options) as store, pytest.raises(BackendUnavailable) as raised:
        put(store)
    assert isinstance(raised.value.__cause__, redis.RedisError | OSError | UnicodeError)
    return str(raised.value)


def test_nothing_is_connected_before_use() -> None:
    RedisStore("redis://127.0.0.1:1/0").close()


def test_a_restart_causes_no_error_and_loses_no_record(store: RedisStore) -> None:
    record = put(store, "a")
    redis_server(private=True).restart()
    assert store.get(["a"]) == [record]
    put(store, "b")
    redis_server(private=True).restart()
    assert [job.id for job in store.find(Query())] == ["b", "a"]


def test_connections_closed_by_the_server_are_opened_again(store: RedisStore) -> None:
    put(store, "a")
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        for one in client.client_list():
            if one["name"] == "queueport":
                client.client_kill(one["addr"])
    assert store.count(Query()) == 1


def test_scripts_are_loaded_again_after_the_server_has_lost_them(store: RedisStore) -> None:
    put(store, "a")
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        client.script_flush()
    # With so many inserts, one round trip calls the script several times.
    new = [Insert(bare(f"j{n}"), Change(), "r") for n in range(500)]
    assert all(written.applied for written in store.insert(new))
    assert store.count(Query()) == 501


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
def test_every_call_fails_in_time_while_the_server_hangs_and_works_afterwards(
    store: RedisStore, *, connected: bool
) -> None:
    if connected:
        put(store, "a")
        store.wait(["a"], 0.0)
    with redis_server(private=True).paused():
        for name, call in CALLS.items():
            if not connected:
                store.close()
            started = time.monotonic()
            with pytest.raises(BackendUnavailable, match=r"did not answer within 0\.5 s"):
                call(store)
            assert time.monotonic() - started < HANG + 0.3, name
    put(store, "b")


def test_an_insert_that_a_hanging_server_reads_too_late_is_not_applied(store: RedisStore) -> None:
    store.insert([Insert(bare("before"), Change(), "r")])
    with redis_server(private=True).paused(), pytest.raises(BackendUnavailable):
        store.insert([Insert(bare("meanwhile"), Change(), "r")])
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        client.client_setname("test")
        # Wait until the server has closed the store's connection, and so has read the insert.
        eventually(lambda: [other["name"] for other in client.client_list()] == ["test"])
    assert store.get(["meanwhile"]) == [None]
    assert store.insert([Insert(bare("meanwhile"), Change(), "r")])[0].applied


def test_inserts_work_after_the_clock_was_set_forward() -> None:
    times = iter([1e9, 1e9, 1e9 + 3600, 1e9 + 3600])
    with opened(redis_server(private=True).url, clock=lambda: next(times)) as store:
        assert store.insert([Insert(bare("a"), Change(), "r")])[0].applied
        assert store.insert([Insert(bare("b"), Change(), "r")])[0].applied
        assert next(times, None) is None


def test_every_call_fails_while_the_server_is_down_and_works_afterwards(store: RedisStore) -> None:
    put(store, "a")
    store.wait(["a"], 0.0)
    with redis_server(private=True).down():
        for call in CALLS.values():
            with pytest.raises(BackendUnavailable, match="refuses connections: start it") as raised:
                call(store)
            assert isinstance(raised.value.__cause__, redis.ConnectionError)
    assert store.count(Query()) == 1


def test_a_write_whose_answer_was_lost_is_not_applied_twice(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the server has applied the swap. The repeated call finds the first call's rev."""
    record = put(store, "a")
    exchange = store.redis._exchange
    broken: list[object] = []

    def lose_the_answer(*arguments: Any) -> list[Any]:
        answers = exchange(*arguments)
        if not broken:
            broken.append(answers)
            raise redis.ConnectionError("lost")
        return answers

    monkeypatch.setattr(store.redis, "_exchange", lose_the_answer)
    (written,) = store.swap([Swap("a", record.rev, Change({"state": JobState.SUCCEEDED}, processed=1), "mine")])
    assert written.record is not None
    assert written.record.rev == "mine"
    assert store.stats().processed == 1


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # an interrupted connect may leave a socket open, and Python warns of it
def test_an_interrupted_call_leaves_no_answer_for_the_next_call(store: RedisStore) -> None:
    record = put(store, "a")
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise Interrupted

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(100):
            with suppress(Interrupted):
                armed = True
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + number * 0.00001)
                for _ in range(10):
                    assert store.get(["a"]) == [record]
                    assert store.count(Query()) == 1
                armed = False
            armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert store.get(["a"]) == [record]


class Interrupted(BaseException):
    pass


def test_a_forked_child_opens_its_own_connections(store: RedisStore) -> None:
    """Parent and child ask for different jobs at the same time, and each gets its own answers."""
    record = put(store, "a")
    store.wait(["a"], 0.0)
    child = os.fork()
    if child == 0:
        try:
            ok = all(store.get(["b"]) == [None] and not store.wait(["b"], 0.0) for _ in range(200))
            store.close()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert all(store.get(["a"]) == [record] and not store.wait(["a"], 0.0) for _ in range(200))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.count(Query()) == 1


def test_many_threads_share_a_store_and_close_removes_all_connections(store: RedisStore) -> None:
    threads = [threading.Thread(target=lambda: [put(store) for _ in range(10)]) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count(Query()) == 500
    store.close()
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        eventually(lambda: all(one["name"] != "queueport" for one in client.client_list()))


def test_a_store_can_use_a_unix_socket() -> None:
    server = redis_server(private=True)
    assert isinstance(server, Redis)
    with opened(f"unix://{server.socket}?db=3") as store:
        put(store, "a")
        with redis.Redis(port=server.port, db=3) as client:
            assert client.exists(f"{store.prefix.decode()}job:a") == 1


def test_a_store_follows_the_sentinels_to_a_new_primary() -> None:
    with started() as primary, started("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        with sentinel(primary) as port, opened(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/jobs/0") as store:
            put(store, "a")
            with redis.Redis(port=port) as client:
                eventually(lambda: client.sentinel_slaves("jobs")[0]["flags"] == "slave")
                with redis.Redis(port=replica.port) as copy:
                    eventually(lambda: copy.exists(f"{store.prefix.decode()}job:a"))
                client.execute_command("SENTINEL FAILOVER", "jobs")
            with redis.Redis(port=primary.port) as before:
                eventually(lambda: before.info("replication")["role"] == "slave", 30.0)
            eventually(lambda: writes(store), 20.0)
            assert store.count(Query()) == 2
            with redis.Redis(port=replica.port) as new_primary:
                assert new_primary.exists(f"{store.prefix.decode()}job:b") == 1
        with sentinel(primary) as port:
            assert "has no primary that its sentinels have named" in refusal(
                f"redis+sentinel://127.0.0.1:{port}/another"
            )


def writes(store: RedisStore) -> bool:
    """Whether the store can insert a job now."""
    try:
        put(store, "b")
    except QueueportError:
        return False
    return True


@contextmanager
def sentinel(primary: Redis) -> Iterator[int]:
    """Start a sentinel that watches this primary under the name `jobs`, and return its port."""
    config = primary.folder / f"sentinel{uuid4().hex}.conf"
    config.write_text(f"sentinel monitor jobs 127.0.0.1 {primary.port} 1\nsentinel failover-timeout jobs 5000\n")
    server = Sentinel(str(config))
    yield server.port
    server.kill()


class Sentinel(Redis):
    def __init__(self, config: str) -> None:
        self.config = config
        super().__init__()

    def command(self) -> list[str]:
        return [self.binary, self.config, "--sentinel", "--port", str(self.port)]


def test_a_store_finds_the_node_with_its_keys_from_any_node_of_a_cluster() -> None:
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        if client.info("server")["redis_version"] < "7":
            pytest.skip("a Redis before 7.0 chooses the port of its cluster bus itself, and that port may not be free")
    buses = [free_port(), free_port()]
    options = ("--cluster-enabled", "yes", "--appendonly", "no", "--cluster-port")
    with started(*options, str(buses[0])) as one, started(*options, str(buses[1])) as two:
        for server, slots in ((one, (0, 8191)), (two, (8192, 16383))):
            with redis.Redis(port=server.port) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", *slots)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", server.port)
                client.execute_command("CLUSTER MEET", "127.0.0.1", one.port, buses[0])
        eventually(lambda: joined(one) and joined(two), 30.0)
        for server in (one, two):
            with opened(server.url) as store:
                record = put(store, "a")
                assert list(store.find(Query())) == list(store.get(["a"])) == [record]
                assert list(store.wait(["a"], 0.0)) == []


def joined(server: Redis) -> bool:
    """Whether this server knows both nodes of the cluster."""
    with redis.Redis(port=server.port) as client:
        answer: Any = client.execute_command("CLUSTER INFO")
    return bool(answer["cluster_state"] == "ok" and answer["cluster_known_nodes"] == "2")
