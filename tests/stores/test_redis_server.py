"""The Redis store and its server: restarts, hangs, forks, and the ways in."""

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
from queueport.record import Change
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import Beat, Begin, Insert, Query, Swap
from queueport.stores.redis import RedisStore
from queueport.testing.stores.harness import bare, put
from queueport.testing.waiting import eventually
from tests.servers import redis_server
from tests.servers.redis import Redis
from tests.servers.server import free_port

HANG = 0.5
"""Seconds that a call may take in these tests."""

CALLS: dict[str, Callable[[RedisStore], object]] = {
    "insert": lambda store: store.insert([Insert(bare(), Change(), "r")]),
    "get": lambda store: store.get(["a"]),
    "find": lambda store: store.find(Query()),
    "count": lambda store: store.count(Query()),
    "swap": lambda store: store.swap([Swap("a", "r", Change({"sends": 1}), "r2")]),
    "begin": lambda store: store.begin([Begin("a", Change(), "r")]),
    "claim_due": lambda store: store.claim_due(1, 1.0, "r"),
    "unreceived": lambda store: store.unreceived("q", 0, 1.0, 1),
    "overflow": lambda store: store.overflow(JobState.DEAD, 0, 1),
    "heartbeat": lambda store: store.heartbeat([Beat("a", "t", 1.0, "r")]),
    "stats": lambda store: store.stats(),
    "announce": lambda store: store.announce(WorkerStats("w", (), (), datetime.now(UTC)), 1.0),
    "workers": lambda store: store.workers(),
    "wait": lambda store: store.wait(["a"], 0.0),
    "now": lambda store: store.now(),
    "check": lambda store: store.check(),
}


@contextmanager
def opened(url: str, **options: Any) -> Iterator[RedisStore]:
    """A store in a namespace of its own."""
    store = RedisStore(url, namespace=f"test{uuid4().hex[:12]}", **options)
    yield store
    store.close()


@contextmanager
def started(*options: str) -> Iterator[Redis]:
    """A server with options of its own."""
    server = Redis(*options)
    yield server
    server.kill()


@pytest.fixture
def store() -> Iterator[RedisStore]:
    with opened(redis_server(private=True).url, call_timeout=HANG) as store:
        yield store


def refusal(url: str, **options: Any) -> str:
    """What a store says of a server that it cannot use; the library's own error is the cause."""
    with opened(url, **options) as store, pytest.raises(BackendUnavailable) as raised:
        put(store)
    assert isinstance(raised.value.__cause__, redis.RedisError | OSError)
    return str(raised.value)


def test_nothing_is_connected_before_use() -> None:
    RedisStore("redis://127.0.0.1:1/0").close()


def test_a_restart_is_noticed_by_nobody_and_no_record_is_lost(store: RedisStore) -> None:
    record = put(store, "a")
    redis_server(private=True).restart()
    assert store.get(["a"]) == [record]
    put(store, "b")
    redis_server(private=True).restart()
    assert [job.id for job in store.find(Query())] == ["b", "a"]


def test_connections_cut_by_the_server_are_made_anew(store: RedisStore) -> None:
    put(store, "a")
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        for one in client.client_list():
            if one["name"] == "queueport":
                client.client_kill(one["addr"])
    assert store.count(Query()) == 1


def test_scripts_that_the_server_forgot_are_loaded_again(store: RedisStore) -> None:
    put(store, "a")
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        client.script_flush()
    new = [Insert(bare(f"j{n}"), Change(), "r") for n in range(500)]  # several runs of the script in one round trip
    assert all(written.applied for written in store.insert(new))
    assert store.count(Query()) == 501


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
def test_while_the_server_hangs_every_call_fails_in_time_and_afterwards_all_is_well(
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


def test_an_insert_that_a_hanging_server_reads_later_is_not_made(store: RedisStore) -> None:
    store.insert([Insert(bare("before"), Change(), "r")])
    with redis_server(private=True).paused(), pytest.raises(BackendUnavailable):
        store.insert([Insert(bare("meanwhile"), Change(), "r")])
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        client.client_setname("looks")
        eventually(lambda: [other["name"] for other in client.client_list()] == ["looks"])  # the other's end was read
    assert store.get(["meanwhile"]) == [None]
    assert store.insert([Insert(bare("meanwhile"), Change(), "r")])[0].applied


def test_inserts_go_on_where_the_clock_was_set_forward() -> None:
    times = iter([1e9, 1e9, 1e9 + 3600, 1e9 + 3600])
    with opened(redis_server(private=True).url, clock=lambda: next(times)) as store:
        assert store.insert([Insert(bare("a"), Change(), "r")])[0].applied
        assert store.insert([Insert(bare("b"), Change(), "r")])[0].applied
        assert next(times, None) is None


def test_while_the_server_is_down_every_call_says_so_and_afterwards_all_is_well(store: RedisStore) -> None:
    put(store, "a")
    store.wait(["a"], 0.0)
    with redis_server(private=True).down():
        for call in CALLS.values():
            with pytest.raises(BackendUnavailable, match="refuses connections: start it") as raised:
                call(store)
            assert isinstance(raised.value.__cause__, redis.ConnectionError)
    assert store.count(Query()) == 1


def test_a_write_whose_answer_was_lost_is_not_applied_twice(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks between the server's work and its answer; the repetition finds the same rev."""
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket that is not yet anybody's
def test_a_thread_interrupted_in_mid_call_leaves_no_answer_to_the_next_call(store: RedisStore) -> None:
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


def test_a_child_has_connections_of_its_own(store: RedisStore) -> None:
    """They ask for different things at the same time, and each gets its own answers."""
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


def test_many_threads_share_a_store_and_leave_few_connections(store: RedisStore) -> None:
    threads = [threading.Thread(target=lambda: [put(store) for _ in range(10)]) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count(Query()) == 500
    store.close()
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        eventually(lambda: all(one["name"] != "queueport" for one in client.client_list()))


def test_a_unix_socket_is_a_way_in() -> None:
    server = redis_server(private=True)
    assert isinstance(server, Redis)
    with opened(f"unix://{server.socket}?db=3") as store:
        put(store, "a")
        with redis.Redis(port=server.port, db=3) as client:
            assert client.exists(f"{store.prefix.decode()}job:a") == 1


def test_sentinels_name_the_primary_and_its_successor() -> None:
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
            with redis.Redis(port=replica.port) as successor:
                assert successor.exists(f"{store.prefix.decode()}job:b") == 1
        with sentinel(primary) as port:
            assert "has no primary that its sentinels know by that name" in refusal(
                f"redis+sentinel://127.0.0.1:{port}/another"
            )


def writes(store: RedisStore) -> bool:
    """Whether it takes a job now."""
    try:
        put(store, "b")
    except QueueportError:
        return False
    return True


@contextmanager
def sentinel(primary: Redis) -> Iterator[int]:
    """A sentinel that watches this one as `jobs`; its port."""
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


def test_the_node_of_a_cluster_that_has_the_keys_is_found_from_any_other() -> None:
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        if client.info("server")["redis_version"] < "7":
            pytest.skip("before 7.0 the bus of a cluster has a port of its own choice, which may not be free")
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
    """Whether it knows the whole cluster."""
    with redis.Redis(port=server.port) as client:
        told: Any = client.execute_command("CLUSTER INFO")
    return bool(told["cluster_state"] == "ok" and told["cluster_known_nodes"] == "2")
