"""The keys that the Redis store writes, large batches, damaged records, and records of a newer version."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import redis
from redis.exceptions import NoScriptError

from queueport.engine.lifecycle import Lifecycle
from queueport.errors import BackendUnavailable
from queueport.spi.history import HOUR, KEEP_HOURS, KEEP_MINUTES, MINUTE, start_of
from queueport.spi.record import RECORD_VERSION, Change, Record
from queueport.spi.storage import unreadable_holder
from queueport.spi.store import Document, Insert, JobStore, LeaseRenewal, Query, Swap, WriteOutcome
from queueport.status import JobState
from queueport.stores.redis import records
from queueport.stores.redis import store as redis_store
from queueport.stores.redis.connection import Redis
from queueport.stores.redis.health import NOT_SENT
from queueport.stores.redis.lua import script
from queueport.stores.redis.store import RedisStore
from queueport.testing.stores.harness import (
    CARRIED,
    RULES,
    TOKEN,
    Clock,
    bare,
    dead,
    error,
    put,
    retrying,
    run,
    succeeded,
    swap,
)
from tests.servers import redis_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client() -> Iterator[Any]:
    with redis.Redis.from_url(redis_server().url) as client:
        yield client


@pytest.fixture
def store(clock: Clock, client: Any) -> Iterator[RedisStore]:
    store = RedisStore(redis_server().url, namespace=f"test{uuid4().hex[:12]}", clock=clock)
    yield store
    store.close()
    for key in client.scan_iter(store.prefix + b"*", 1000):
        client.unlink(key)


def keys(store: RedisStore, client: Any) -> set[str]:
    """The keys of the store, without the prefix. Leaves out the history, which stays when jobs are deleted."""
    found = {key.removeprefix(store.prefix).decode() for key in client.scan_iter(store.prefix + b"*", 1000)}
    return {key for key in found if not key.startswith("history:")}


def test_jobs_of_a_time_are_counted_in_pages_although_the_clock_was_set_back(
    store: RedisStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PAGE", 7)
    start, times = clock.now, list[float]()
    for number in range(120):
        put(store, f"j{number}", queue=f"q{number % 3}")
        times.append(clock.now - start)
        clock.advance(-8 if number % 10 == 9 else 3)
    for since in range(-20, 260, 9):
        for length in (5, 40, 130, None):
            until = None if length is None else start + since + length
            expected = [n for n, at in enumerate(times) if since <= at < (since + length if length else 1e9)]
            assert store.count(Query(since=start + since, until=until)) == len(expected)
            in_queue = [n for n in expected if n % 3 == 1]
            assert store.count(Query(queue="q1", since=start + since, until=until)) == len(in_queue)


def test_the_history_of_redis_leaves_nothing_after_its_time(store: RedisStore, client: Any, clock: Clock) -> None:
    put(store)
    names = {key.removeprefix(store.prefix).decode() for key in client.scan_iter(store.prefix + b"history:*")}
    minute = start_of(MINUTE, clock.now)
    assert names == {"history:60", f"history:60:{minute}"}
    kept = {b"enqueued:default:app.send": b"1", b":default:app.send": b"1", b"places": b"1"}
    assert client.hgetall(store.prefix + b"history:60:%d" % minute) == kept
    for later in (KEEP_MINUTES + MINUTE, KEEP_HOURS + HOUR):
        clock.advance(later)
        store.fold_history()
    assert list(client.scan_iter(store.prefix + b"history:*")) == []


def delete(store: JobStore, *records: Record) -> None:
    swaps = [Swap(record.id, record.rev, Change(delete=True), "r") for record in records]
    assert all(written.applied for written in store.swap(swaps))


def test_a_deleted_job_leaves_only_the_name_of_its_queue_and_the_counters(store: RedisStore, client: Any) -> None:
    records = [
        put(store, key="k1", priority=3),
        put(store, rules=CARRIED, key="k2", queue="emails"),
        put(store, delay=5.0, headers={"a": "b"}),
        swap(store, put(store), errors=(error("a.B"), error("c.D")), sent=False),
        put(store, v=RECORD_VERSION + 1, delay=9.0),
        run(store, put(store, key="k3"), token="t"),
        swap(store, run(store, put(store)), state=JobState.QUEUED, priority=2, queue="bulk"),
        retrying(store, key="k4"),
        succeeded(store, key="k5"),
        dead(store),
        swap(store, put(store, key="k6"), state=JobState.CANCELLED),
    ]
    assert len(keys(store, client)) > 30
    delete(store, *records)
    assert keys(store, client) == {"counters", "queues"}
    assert client.smembers(store.prefix + b"queues") == {b"default", b"emails", b"bulk"}
    assert set(client.hkeys(store.prefix + b"counters")) == {b"seq", b"processed", b"failed"}


def test_all_keys_have_the_same_hash_tag(store: RedisStore, client: Any) -> None:
    before = set(client.scan_iter("*", 1000))
    dead(store, key="k")
    put(store, delay=1.0, key="k2")
    new = set(client.scan_iter("*", 1000)) - before
    tag = store.prefix.removesuffix(b":")
    mine = {key for key in new if tag.strip(b"{}") in key}
    assert len(mine) > 8
    assert all(key.startswith(tag) and key.count(b"{") == 1 for key in mine)


TAGS = ((), ("vip",), ("vip", "eu"))


def test_counts_and_indexes_match_the_records_after_random_writes(store: RedisStore, client: Any, clock: Clock) -> None:
    chance = random.Random(7)
    for step in range(600):
        clock.advance(1)
        records = list(store.find(Query(limit=50)))
        if len(records) < 30:
            new = Change({"state": chance.choice(list(JobState)), "sent": chance.random() < 0.5}, {"queued_at": 0.0})
            store.insert(
                [
                    Insert(
                        bare(queue=chance.choice("ab"), key=chance.choice("klm"), tags=chance.choice(TAGS)),
                        new,
                        f"r{step}",
                    )
                ]
            )
        else:
            record = chance.choice(records)
            values = {"state": chance.choice(list(JobState)), "sent": chance.random() < 0.5, "wake_at": float(step)}
            change = Change(delete=True) if chance.random() < 0.3 else Change(values, {"sent_at": 0.0})
            store.swap([Swap(record.id, record.rev, change, f"r{step}")])
    counts = client.hgetall(store.prefix + b"counts")
    assert {place: int(n) for place, n in counts.items()} == {
        place: client.zcard(store.prefix + place) for place in counts
    }
    kinds = (b"listed", b"errors", b"queued", b"sent", b"due", b"leases")
    places = {key.encode() for key in keys(store, client) if key.split(":")[0].encode() in kinds}
    assert places == set(counts)
    labels: Counter[str] = Counter()
    for record in store.find(Query(limit=99)):
        labels.update([f"keyed:{record.key}", *(f"tagged:{record.state}:{tag}" for tag in record.tags)])
    kept = [key for key in keys(store, client) if key.startswith(("keyed:", "tagged:"))]
    assert labels == {key: client.zcard(store.prefix + key.encode()) for key in kept}
    holders = client.hgetall(store.prefix + b"keys")
    alive = {record.id.encode() for record in store.find(Query(limit=99)) if not record.state.final}
    assert set(holders.values()) == alive


def test_ids_are_found_among_many_keys_of_other_namespaces(
    store: RedisStore, client: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "SCANNED", 10)
    other = RedisStore(redis_server().url, namespace=f"{store.prefix.decode()[1:-2]}2", clock=clock)
    for n in range(200):
        put(store, f"0199-{n:03}")
        put(other, f"0199-1{n:03}")
    assert store.ids("0199-10", 5) == [f"0199-10{n}" for n in range(5)]
    assert store.ids("0199-1", 1000) == [f"0199-1{n:02}" for n in range(100)]
    for key in client.scan_iter(other.prefix + b"*", 1000):
        client.unlink(key)
    other.close()


def test_a_search_for_ids_that_takes_too_long_ends(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(50):
        put(store, f"0199-{n}")
    times = count(time.monotonic(), 10.0)
    monkeypatch.setattr(redis_store, "SCANNED", 1)
    monkeypatch.setattr(redis_store, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with pytest.raises(BackendUnavailable, match=r"takes too long, because .* has too many keys: give the whole id$"):
        store.ids("0199", 5)


def test_a_job_of_a_release_without_tags_is_changed_and_deleted(store: RedisStore, client: Any) -> None:
    record = put(store, "old", key="k")
    client.delete(store.prefix + b"keyed:k")  # an earlier release did not write this index
    record = swap(store, record, state=JobState.DEAD)
    assert store.find(Query(key="k")) == []
    assert store.find(Query()) == [record]
    store.swap([Swap(record.id, record.rev, Change(delete=True), "r")])
    assert keys(store, client) <= {"counters", "queues"}


def test_the_answers_of_a_large_batch_are_in_order(store: RedisStore) -> None:
    new = Lifecycle(RULES).new(delay=None, expires=None)
    inserts = [Insert(bare(f"j{n}", key=f"k{n % 2000}"), new, f"r{n}") for n in range(2500)]
    outcomes = [written.outcome for written in store.insert(inserts)]
    assert outcomes == [WriteOutcome.APPLIED] * 2000 + [WriteOutcome.KEY_HELD] * 500
    ids = [f"j{n}" for n in range(2500)]
    found = store.get(ids)
    assert [record and record.id for record in found] == [*ids[:2000], *[None] * 500]
    beginning = [Swap(f"j{n}", f"r{n}", Change({"sends": n}), "s") for n in range(2000)]
    assert [written.record and written.record.sends for written in store.swap(beginning)] == list(range(2000))


def test_a_batch_of_large_payloads_is_inserted(store: RedisStore) -> None:
    payload = bytes(2**20)
    new = Lifecycle(RULES).new(delay=None, expires=None)
    assert all(
        written.applied for written in store.insert([Insert(bare(payload=payload), new, "r") for _ in range(20)])
    )
    assert {len(record.payload) for record in store.find(Query())} == {2**20}


def test_find_and_overflow_keep_the_order_over_many_queues_and_pages(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PAGE", 7)
    chance = random.Random(3)
    new = Lifecycle(RULES).new(delay=None, expires=None)
    kinds = [(f"j{n}", chance.choice("abcd"), chance.choice("xyz")) for n in range(200)]
    store.insert([Insert(bare(job_id, queue=queue, task=task), new, "r") for job_id, queue, task in kinds])
    newest = [f"j{n}" for n in reversed(range(200))]
    assert [record.id for record in store.find(Query(limit=1000))] == newest
    assert [record.id for record in store.find(Query(limit=90, after="j150"))] == newest[50:140]
    monkeypatch.setattr(redis_store, "PAGE", 500)
    assert [record.id for record in store.find(Query(limit=1000))] == newest
    assert [record.id for record in store.overflow(Query(JobState.QUEUED), 20, 60)] == newest[::-1][:60]


def test_finished_before_finds_all_records_over_several_pages(
    store: RedisStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PAGE", 3)
    for number in range(10):
        dead(store, f"j{number}")
        clock.advance(1)
    cutoff = clock.now - 5
    assert [record.id for record in store.find(Query(finished_before=cutoff))] == ["j4", "j3", "j2", "j1", "j0"]
    assert [record.id for record in store.find(Query(finished_before=cutoff, limit=2))] == ["j4", "j3"]
    assert store.count(Query(finished_before=cutoff)) == 5


SEARCHES: list[tuple[Callable[..., Record], Callable[[RedisStore], Sequence[Record]]]] = [
    (dead, lambda store: store.find(Query(JobState.DEAD))),
    (dead, lambda store: store.find(Query(error="ValueError"))),
    (succeeded, lambda store: store.overflow(Query(JobState.SUCCEEDED), 0, 10)),
    (put, lambda store: store.unreceived("default", 0, store.now() + 1, 10)),
]


@pytest.mark.parametrize(("make", "search"), SEARCHES, ids=["state", "error", "overflow", "unreceived"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
def test_searches_leave_out_damaged_and_lost_records(
    store: RedisStore,
    client: Any,
    make: Callable[..., Record],
    search: Callable[[RedisStore], Sequence[Record]],
    *,
    lost: bool,
) -> None:
    make(store, "bad")
    good = make(store, "good")
    if lost:
        client.delete(store.prefix + b"job:bad")
    else:
        client.hset(store.prefix + b"job:bad", "headers", "")
    assert [record.id for record in search(store)] == [good.id]
    assert store.count(Query()) == 1
    assert client.exists(store.prefix + b"aside:bad") == (not lost)


FIELDS = ("state", "queue", "task", "priority", "wake_at", "v", "attempts", "expires_at", "rev")


@pytest.mark.parametrize("damage", [(field, value) for field in FIELDS for value in (b"\xff{", b"")], ids=str)
def test_a_record_with_any_damaged_field_is_moved_aside_completely(
    store: RedisStore, client: Any, clock: Clock, damage: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "bad", key="k", delay=1.0, expires=50.0)
    client.hset(store.prefix + b"job:bad", "headers", "not JSON")
    client.hset(store.prefix + b"job:bad", *damage)
    clock.advance(2)
    list(store.claim_due(10, 5.0, "r"))
    assert store.get(["bad"]) == [None]
    kept = client.hgetall(store.prefix + b"aside:bad")
    assert kept[b"headers"] == b"not JSON"
    assert b"cannot be read" in kept[b"aside_reason"]
    assert client.zscore(store.prefix + b"aside", "bad") == clock.now
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    put(store, "bad", key="k")
    delete(store, *store.find(Query()))
    assert keys(store, client) - {"keys"} == {"aside", "aside:bad", "counters", "queues"}


def test_a_damaged_or_lost_job_no_longer_holds_its_key(store: RedisStore, client: Any) -> None:
    put(store, "damaged", key="k")
    client.hset(store.prefix + b"job:damaged", "headers", "")
    put(store, "next", key="k")
    client.delete(store.prefix + b"job:next")
    put(store, "last", key="k")
    assert store.count(Query()) == 2  # the job `next` has lost its record, but is counted until a call tries to read it
    assert [record.id for record in store.find(Query())] == ["last"]
    assert store.count(Query()) == 1


def test_a_damaged_record_of_an_ended_job_does_not_release_the_key_of_another_job(
    store: RedisStore, client: Any
) -> None:
    dead(store, "bad", key="k")
    holder = put(store, "holder", key="k")
    client.hset(store.prefix + b"job:bad", "headers", "")
    assert [record.id for record in store.find(Query())] == ["holder"]
    (answer,) = store.insert([Insert(bare(key="k"), Change({"state": JobState.QUEUED}), "r")])
    assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, holder)


def test_a_record_that_changed_after_it_was_read_is_not_moved_aside(store: RedisStore) -> None:
    record = swap(store, put(store, "a"), sends=1)
    assert not store._aside(b"a", b"an older rev", "it could not be read")
    assert store.get(["a"]) == [record]
    assert store._aside(b"a", record.rev.encode(), "it cannot be read")


def test_times_keep_their_full_precision(store: RedisStore, clock: Clock) -> None:
    clock.now = 1_700_000_000.1234567
    scheduled = put(store, "a", delay=0.1 + 0.2)
    assert scheduled.wake_at == clock.now + (0.1 + 0.2)
    assert store.get(["a"]) == [scheduled]
    clock.now += 0.1 + 0.2
    (claimed,) = store.claim_due(1, 0.7, "r")
    assert claimed.wake_at == clock.now + 0.7
    begun = run(store, swap(store, claimed, state=JobState.QUEUED))
    assert begun.started_at == clock.now
    assert store.stats().now == clock.now


def test_a_write_to_a_damaged_record_is_refused(store: RedisStore, client: Any) -> None:
    run(store, put(store, "running"))
    put(store, "queued")
    for name in ("running", "queued"):
        client.hset(store.prefix + f"job:{name}".encode(), "options", "")
    (renewed,) = store.heartbeat([LeaseRenewal("running", TOKEN, 9.0, "r")])
    (inserted,) = store.insert([Insert(bare("queued"), Change(), "r")])
    assert [(one.outcome, one.record) for one in (renewed, inserted)] == [(WriteOutcome.REFUSED, None)] * 2
    put(store, "queued")


def test_a_newer_record_is_left_unchanged_and_logged_once(
    store: RedisStore, client: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "queued", v=RECORD_VERSION + 1)
    put(store, "due", v=RECORD_VERSION + 1, delay=1.0)
    for name in ("queued", "due"):
        client.hset(store.prefix + f"job:{name}".encode(), "options", "a format of a newer version")
    before = [client.hgetall(store.prefix + f"job:{name}".encode()) for name in ("queued", "due")]
    clock.advance(10)
    for _ in range(3):
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert list(store.unreceived("default", 0, clock.now, 10)) == []
        assert list(store.find(Query())) == []
    assert [client.hgetall(store.prefix + f"job:{name}".encode()) for name in ("queued", "due")] == before
    (line,) = caplog.messages
    assert "a newer release of queueport wrote some jobs: this release does not run them" in line


def test_a_newer_record_holds_its_key_although_it_cannot_be_read(store: RedisStore, client: Any) -> None:
    ended = dead(store, "ended", key="k")
    put(store, "newer", key="k", v=RECORD_VERSION + 1)
    client.hset(store.prefix + b"job:newer", "options", "a format of a newer version")
    (inserted,) = store.insert([Insert(bare(key="k"), Change({"state": JobState.QUEUED}), "r")])
    (swapped,) = store.swap([Swap("ended", ended.rev, Change({"state": JobState.QUEUED}), "r")])
    for answer in (inserted, swapped):
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, unreadable_holder("newer"))


@pytest.mark.parametrize("version", [RECORD_VERSION + 1, RECORD_VERSION + 5])
def test_records_of_any_newer_version_are_noticed(
    store: RedisStore, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    put(store, "due", v=version, delay=1.0)
    assert list(store.claim_due(10, 5.0, "r")) == []
    assert "a newer release of queueport wrote some jobs" in caplog.text


def test_all_round_trips_of_a_call_end_at_the_same_deadline(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []
    ask = Redis._ask

    def without_scripts(self: Redis, commands: bytes, count: int, deadline: float, *, once: bool) -> list[Any]:
        """Answer as a server that has no script until a client loads it."""
        deadlines.append(deadline)
        if b"SCRIPT" not in commands:
            return [NoScriptError()] * count
        return ask(self, commands, count, deadline, once=once)

    monkeypatch.setattr(Redis, "_ask", without_scripts)
    store.get(["a"])
    store.insert([Insert(bare("a"), Change({"state": JobState.QUEUED}), "r")])
    assert len(deadlines) == 6  # an unknown script takes two round trips, and the first insert asks for the time
    assert len(set(deadlines)) == 2


def test_a_further_damaged_record_of_one_id_does_not_replace_the_first(
    store: RedisStore, client: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("first", "second", "third"):
        put(store, "bad")
        client.hset(store.prefix + b"job:bad", "headers", text)
        assert list(store.find(Query())) == []
        clock.advance(1)
    names = client.zrange(store.prefix + b"aside", 0, -1)
    kept = [client.hget(store.prefix + b"aside:" + name, "headers") for name in names]
    assert (names[0], kept) == (b"bad", [b"first", b"second", b"third"])
    for name in names:
        assert f"put aside under the key {store.prefix.decode()}aside:{name.decode()}:" in caplog.text


def test_a_further_damaged_document_of_one_name_does_not_replace_the_first(
    store: RedisStore, client: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("first", "second", "third"):
        assert store.put_document(Document("pause", "bad", {}, "r"), None)
        client.hset(store.prefix + b"documents:pause", "bad", f"r {text}")
        assert store.documents("pause") == []
        clock.advance(1)
    names = client.zrange(store.prefix + b"aside", 0, -1)
    kept = [client.hget(store.prefix + b"aside:" + name, "document") for name in names]
    assert (names[0], kept) == (b"pause:bad", [b"r first", b"r second", b"r third"])
    for name in names:
        assert f"put aside under the key {store.prefix.decode()}aside:{name.decode()}:" in caplog.text


def test_inserts_are_not_rejected_if_only_some_were_sent_again_to_load_the_script(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BATCH", 1)
    put(store, "earlier")  # the store knows the server's clock from now on
    ask = store.redis.ask
    ask([(b"SCRIPT", b"LOAD", script("insert").text)])

    def partly(commands: Sequence[Any], **options: Any) -> list[Any]:
        if commands[0][0] == b"EVALSHA":
            return [NoScriptError("NOSCRIPT"), *ask(commands[1:], **options)]
        cause = redis.ConnectionError("no connection")
        cause.add_note(NOT_SENT)
        raise BackendUnavailable("the server is away") from cause

    inserts = [Insert(bare(name), Change({"state": JobState.QUEUED}), name) for name in ("a", "b")]
    with monkeypatch.context() as patched:
        patched.setattr(store.redis, "ask", partly)
        with pytest.raises(BackendUnavailable, match="the server is away") as caught:
            store.insert(inserts)
    assert tuple(caught.value.rejected) == ()
    assert [record and record.id for record in store.get(["a", "b"])] == [None, "b"]
