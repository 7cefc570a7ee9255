"""What the Redis store leaves on the server: one line a queue, one hash tag, and what a damaged record becomes."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
import redis

from queueport import lifecycle
from queueport.record import RECORD_VERSION, Change, Record
from queueport.status import JobState
from queueport.store import Beat, Insert, JobStore, Outcome, Query, Swap
from queueport.stores import redis as redis_store
from queueport.stores.redis import RedisStore
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
    """Its keys, without the prefix."""
    found = client.scan_iter(store.prefix + b"*", 1000)
    return {key.removeprefix(store.prefix).decode() for key in found}


def delete(store: JobStore, *records: Record) -> None:
    swaps = [Swap(record.id, record.rev, Change(delete=True), "r") for record in records]
    assert all(written.applied for written in store.swap(swaps))


def test_of_a_deleted_job_nothing_remains_but_its_queue_and_the_counters(store: RedisStore, client: Any) -> None:
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


def test_every_key_has_the_one_hash_tag_so_that_a_cluster_keeps_them_together(store: RedisStore, client: Any) -> None:
    before = set(client.scan_iter("*", 1000))
    dead(store, key="k")
    put(store, delay=1.0, key="k2")
    new = set(client.scan_iter("*", 1000)) - before
    tag = store.prefix.removesuffix(b":")
    mine = {key for key in new if tag.strip(b"{}") in key}
    assert len(mine) > 8
    assert all(key.startswith(tag) and key.count(b"{") == 1 for key in mine)


def test_counts_and_places_are_those_of_the_records_after_any_history(
    store: RedisStore, client: Any, clock: Clock
) -> None:
    chance = random.Random(7)
    for step in range(600):
        clock.advance(1)
        records = list(store.find(Query(limit=50)))
        if len(records) < 30:
            new = Change({"state": chance.choice(list(JobState)), "sent": chance.random() < 0.5}, {"queued_at": 0.0})
            store.insert([Insert(bare(queue=chance.choice("ab"), key=chance.choice("klm")), new, f"r{step}")])
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
    holders = client.hgetall(store.prefix + b"keys")
    living = {record.id.encode() for record in store.find(Query(limit=99)) if not record.state.final}
    assert set(holders.values()) == living


def test_a_large_batch_is_one_call_and_answered_in_order(store: RedisStore) -> None:
    new = lifecycle.new(RULES, delay=None, expires=None)
    inserts = [Insert(bare(f"j{n}", key=f"k{n % 2000}"), new, f"r{n}") for n in range(2500)]
    outcomes = [written.outcome for written in store.insert(inserts)]
    assert outcomes == [Outcome.APPLIED] * 2000 + [Outcome.KEY_HELD] * 500
    ids = [f"j{n}" for n in range(2500)]
    found = store.get(ids)
    assert [record and record.id for record in found] == [*ids[:2000], *[None] * 500]
    beginning = [Swap(f"j{n}", f"r{n}", Change({"sends": n}), "s") for n in range(2000)]
    assert [written.record and written.record.sends for written in store.swap(beginning)] == list(range(2000))


def test_a_batch_of_large_payloads_is_taken(store: RedisStore) -> None:
    payload = bytes(2**20)
    new = lifecycle.new(RULES, delay=None, expires=None)
    assert all(
        written.applied for written in store.insert([Insert(bare(payload=payload), new, "r") for _ in range(20)])
    )
    assert {len(record.payload) for record in store.find(Query())} == {2**20}


def test_what_is_found_over_many_queues_and_pages_is_in_order(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PAGE", 7)
    chance = random.Random(3)
    new = lifecycle.new(RULES, delay=None, expires=None)
    kinds = [(f"j{n}", chance.choice("abcd"), chance.choice("xyz")) for n in range(200)]
    store.insert([Insert(bare(job_id, queue=queue, task=task), new, "r") for job_id, queue, task in kinds])
    newest = [f"j{n}" for n in reversed(range(200))]
    assert [record.id for record in store.find(Query(limit=1000))] == newest
    assert [record.id for record in store.find(Query(limit=90, after="j150"))] == newest[50:140]
    monkeypatch.setattr(redis_store, "PAGE", 500)
    assert [record.id for record in store.find(Query(limit=1000))] == newest
    assert [record.id for record in store.overflow(JobState.QUEUED, 20, 60)] == newest[::-1][:60]


def test_filtering_by_time_goes_on_where_a_page_ended(
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
    (succeeded, lambda store: store.overflow(JobState.SUCCEEDED, 0, 10)),
    (put, lambda store: store.unreceived("default", 0, store.now() + 1, 10)),
]


@pytest.mark.parametrize(("make", "search"), SEARCHES, ids=["state", "error", "overflow", "unreceived"])
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "damaged"])
def test_every_way_to_read_many_leaves_damaged_and_lost_records_behind(
    store: RedisStore,
    client: Any,
    make: Callable[..., Record],
    search: Callable[[RedisStore], Sequence[Record]],
    *,
    gone: bool,
) -> None:
    make(store, "bad")
    good = make(store, "good")
    if gone:
        client.delete(store.prefix + b"job:bad")
    else:
        client.hset(store.prefix + b"job:bad", "headers", "")
    assert [record.id for record in search(store)] == [good.id]
    assert store.count(Query()) == 1
    assert client.exists(store.prefix + b"aside:bad") == (not gone)


FIELDS = ("state", "queue", "task", "priority", "wake_at", "v", "attempts", "expires_at", "rev")


@pytest.mark.parametrize("damage", [(field, value) for field in FIELDS for value in (b"\xff{", b"")], ids=str)
def test_a_record_with_any_field_damaged_is_put_aside_whole_and_leaves_no_trace(
    store: RedisStore, client: Any, clock: Clock, damage: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "bad", key="k", delay=1.0, expires=50.0)
    client.hset(store.prefix + b"job:bad", "headers", "no json")
    client.hset(store.prefix + b"job:bad", *damage)
    clock.advance(2)
    list(store.claim_due(10, 5.0, "r"))
    assert store.get(["bad"]) == [None]
    kept = client.hgetall(store.prefix + b"aside:bad")
    assert kept[b"headers"] == b"no json"
    assert b"cannot be read" in kept[b"aside_reason"]
    assert client.zscore(store.prefix + b"aside", "bad") == clock.now
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    put(store, "bad", key="k")
    delete(store, *store.find(Query()))
    assert keys(store, client) - {"keys"} == {"aside", "aside:bad", "counters", "queues"}


def test_a_damaged_or_lost_holder_gives_up_its_key(store: RedisStore, client: Any) -> None:
    put(store, "damaged", key="k")
    client.hset(store.prefix + b"job:damaged", "headers", "")
    put(store, "next", key="k")
    client.delete(store.prefix + b"job:next")
    put(store, "last", key="k")
    assert store.count(Query()) == 2  # nobody has met what is left of `next`
    assert [record.id for record in store.find(Query())] == ["last"]
    assert store.count(Query()) == 1


def test_a_damaged_record_that_had_ended_leaves_the_key_to_its_holder(store: RedisStore, client: Any) -> None:
    dead(store, "bad", key="k")
    holder = put(store, "holder", key="k")
    client.hset(store.prefix + b"job:bad", "headers", "")
    assert [record.id for record in store.find(Query())] == ["holder"]
    (answer,) = store.insert([Insert(bare(key="k"), Change({"state": JobState.QUEUED}), "r")])
    assert (answer.outcome, answer.record) == (Outcome.KEY_HELD, holder)


def test_a_record_that_was_written_since_it_was_read_is_not_put_aside(store: RedisStore) -> None:
    record = swap(store, put(store, "a"), sends=1)
    assert not store._aside(b"a", b"the rev before", "it could not be read then")
    assert store.get(["a"]) == [record]
    assert store._aside(b"a", record.rev.encode(), "it cannot be read")


def test_the_servers_times_lose_nothing(store: RedisStore, clock: Clock) -> None:
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
    run(store, put(store, "beating"))
    put(store, "there")
    for name in ("beating", "there"):
        client.hset(store.prefix + f"job:{name}".encode(), "options", "")
    (beaten,) = store.heartbeat([Beat("beating", TOKEN, 9.0, "r")])
    (inserted,) = store.insert([Insert(bare("there"), Change(), "r")])
    assert [(one.outcome, one.record) for one in (beaten, inserted)] == [(Outcome.REFUSED, None)] * 2
    put(store, "there")


def test_a_newer_record_is_left_alone_with_one_line_in_the_log(
    store: RedisStore, client: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "queued", v=RECORD_VERSION + 1)
    put(store, "due", v=RECORD_VERSION + 1, delay=1.0)
    for name in ("queued", "due"):
        client.hset(store.prefix + f"job:{name}".encode(), "options", "in a way that is not yet known")
    before = [client.hgetall(store.prefix + f"job:{name}".encode()) for name in ("queued", "due")]
    clock.advance(10)
    for _ in range(3):
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert list(store.unreceived("default", 0, clock.now, 10)) == []
        assert list(store.find(Query())) == []
    assert [client.hgetall(store.prefix + f"job:{name}".encode()) for name in ("queued", "due")] == before
    (line,) = caplog.messages
    assert "of a newer queueport: such jobs are left alone here" in line
