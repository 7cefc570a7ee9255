"""The commands of a one-step enqueue: Redis runs them in the same step as the insert, or not at all."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from queueport.spi.record import Change
from queueport.spi.store import Insert, WriteOutcome
from queueport.spi.url import BackendURL
from queueport.status import JobState
from queueport.stores.redis.store import RedisStore
from queueport.testing.stores.harness import bare
from tests.servers import redis_server

NAMESPACE = f"test{uuid4().hex[:12]}"
LIST = f"{{{NAMESPACE}}}:list".encode()
QUEUED = Change({"state": JobState.QUEUED})


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server().url) as client:
        yield client
        for key in client.scan_iter(f"{{{NAMESPACE}}}*"):
            client.delete(key)


@pytest.fixture
def store(client: redis.Redis) -> Iterator[RedisStore]:
    store = RedisStore(redis_server().url, namespace=NAMESPACE)
    yield store
    store.close()


def sending(job_id: str, *words: bytes, key: str | None = None) -> Insert:
    """The insert of a job, with a command that appends to a list and a second command made of these words."""
    return Insert(bare(job_id, key=key), QUEUED, f"rev of {job_id}", ((b"RPUSH", LIST, b"head"), (*words,)))


def test_the_commands_run_if_the_record_is_inserted(store: RedisStore, client: redis.Redis) -> None:
    words = [(b"RPUSH", LIST, name) for name in (b"a", b"\xff\x00\r\n", b"")]
    inserts = [Insert(bare(f"job-{n}"), QUEUED, f"r{n}", (word, word)) for n, word in enumerate(words)]
    assert [one.outcome for one in store.insert(inserts)] == [WriteOutcome.APPLIED] * 3
    assert client.lrange(LIST.decode(), 0, -1) == [word for _, _, word in words for _ in range(2)]


def test_the_commands_do_not_run_if_the_insert_is_refused(store: RedisStore, client: redis.Redis) -> None:
    first = sending("a", b"RPUSH", LIST, b"a", key="k")
    assert store.insert([first])[0].applied
    answers = store.insert([first, sending("b", b"RPUSH", LIST, b"b", key="k"), sending("c", b"RPUSH", LIST, b"c")])
    assert [one.outcome for one in answers] == [WriteOutcome.REFUSED, WriteOutcome.KEY_HELD, WriteOutcome.APPLIED]
    assert client.lrange(LIST.decode(), 0, -1) == [b"head", b"a", b"head", b"c"]


@pytest.mark.parametrize("wrong", [(b"LPOP", LIST, b"x", b"y"), (b"SADD", LIST, b"x"), (b"NO-SUCH-COMMAND",)])
def test_a_record_whose_commands_fail_is_not_inserted(store: RedisStore, wrong: tuple[bytes, ...]) -> None:
    before = store.stats()
    answers = store.insert(
        [sending("a", b"RPUSH", LIST, b"a"), sending("b", *wrong, key="k"), sending("c", b"LLEN", LIST)]
    )
    assert [one.outcome for one in answers] == [WriteOutcome.APPLIED, WriteOutcome.NOT_SENT, WriteOutcome.APPLIED]
    assert answers[1].record is None
    assert answers[1].error is not None
    assert isinstance(answers[1].error.__cause__, redis.ResponseError)
    assert [record is not None for record in store.get(["a", "b", "c"])] == [True, False, True]
    after = store.stats()
    assert sum(after.queues["default"].states.values()) == 2
    assert (after.processed, after.failed) == (before.processed, before.failed)
    assert store.insert([sending("d", b"LLEN", LIST, key="k")])[0].applied, (
        "the job that was not inserted still holds its key"
    )


@pytest.mark.parametrize(
    ("url", "same"),
    [("redis://localhost:1/2", True), ("redis://localhost:1/2?client_name=other", False)]
    + [
        (f"redis://{place}", False) for place in ("localhost:1/3", "127.0.0.1:1/2", "localhost:2/2", ":p@localhost:1/2")
    ],
)
def test_two_urls_share_a_server_only_if_all_their_parts_are_equal(url: str, *, same: bool) -> None:
    assert RedisStore("redis://localhost:1/2").shares_server(BackendURL.parse(url)) is same
