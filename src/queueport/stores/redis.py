"""The Redis store: one server, many threads, processes and machines. For those who run it or change it.

Every verb is one script, which runs alone on the server, sent in one round trip; the clock is the server's. What is
kept under which key is written in `redis_lua`. A job whose record cannot be read is put aside by a second script, under
the rev with which it was read: only Python can tell that a record cannot be read, and only that very record is moved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Self

from redis import exceptions

from queueport.errors import BackendUnavailable
from queueport.record import RECORD_VERSION, CorruptRecord, Record
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import Beat, Begin, Insert, JobStore, Outcome, Query, StoreStats, Swap, Written
from queueport.stores import LIMITS, redis_scripts
from queueport.stores.redis_answers import pairs, stats, workers
from queueport.stores.redis_batches import batches
from queueport.stores.redis_clock import ServerClock
from queueport.stores.redis_connection import Redis
from queueport.stores.redis_errors import unavailable
from queueport.stores.redis_health import warnings
from queueport.stores.redis_rows import beat_arguments, change_arguments, encoded, fields, insert_arguments
from queueport.stores.redis_scripts import Script
from queueport.stores.redis_url import RedisOptions, parse
from queueport.stores.redis_waiting import Waiting
from queueport.url import BackendURL

__all__ = ["RedisStore"]

log: logging.Logger = logging.getLogger(__name__)

WAY_BACK = 0.1
"""The part of a call's time that is left to the answer to an insert."""
PAGE = 500
"""Records that one run of a script looks at."""
OUTCOMES = {0: Outcome.REFUSED, 1: Outcome.APPLIED, 2: Outcome.KEY_HELD}


class RedisStore(JobStore):
    """Records in one Redis, under keys that begin with `{NAMESPACE}:`."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = RedisOptions
    poll: float = 0.25  # a look is a round trip, and a thousand workers may share the server

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "queueport",
        call_timeout: float = 5.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.redis: Redis = Redis(parse(BackendURL.parse(url)), call_timeout=call_timeout)
        self.prefix: bytes = f"{{{namespace}}}:".encode()
        self._clock = clock
        self._server = ServerClock()
        self._waiting = Waiting(self.redis, self.prefix, self._final)
        self._newer_told = False

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        return cls(url.full, namespace=namespace, call_timeout=call_timeout)

    def _run(self, script: Script, *sent: Iterable[bytes], once: bool = False) -> list[Any]:
        """The answer to each batch of arguments."""
        clock = b"" if self._clock is None else encoded(float(self._clock()))
        start = (self.prefix, b"%d" % RECORD_VERSION, clock)
        return self.redis.run(script, [(*start, *batch) for batch in sent], once=once)

    def insert(self, inserts: Sequence[Insert]) -> Sequence[Written]:
        met = self._insert(inserts)
        if None in met:  # the clock was set forward, or the way there took long
            again = iter(self._insert([insert for insert, one in zip(inserts, met, strict=True) if one is None]))
            met = [next(again) if one is None else one for one in met]
        written = [one for one in met if one is not None]
        if len(written) < len(met):
            raise self._unavailable(exceptions.TimeoutError())
        return written

    def _unavailable(self, cause: exceptions.RedisError) -> BackendUnavailable:
        error = unavailable(self.redis.target.shown, cause, self.redis.call_timeout)
        error.__cause__ = cause
        return error

    def _insert(self, inserts: Sequence[Insert]) -> list[Written | None]:
        """What became of each; None where the server got it too late to make it."""
        until = encoded(self.reckoned() + self.redis.call_timeout * (1 - WAY_BACK))
        sent = list(batches([insert_arguments(insert) for insert in inserts]))
        met: list[Written | None] = []
        once = any(insert.along for insert in inserts)  # a worker may have begun it: the core must know of a doubt
        answers = self._run(redis_scripts.INSERT, *([until, *batch] for batch in sent), once=once)
        for batch, (now, *answer) in zip(sent, answers, strict=True):
            self._server.heard(float(now))
            mine = inserts[len(met) : len(met) + int(batch[0])]
            found = zip(mine, pairs(answer), strict=True) if answer else ()
            met += [self._inserted(insert, float(now), *pair) for insert, pair in found] or [None] * len(mine)
        return met

    def _inserted(self, insert: Insert, now: float, outcome: int, whole: bytes | None) -> Written:
        if outcome == 1:
            return Written(Outcome.APPLIED, insert.change.applied(insert.record, insert.rev, now))
        if outcome == 3:
            refused = exceptions.ResponseError((whole or b"").decode("utf-8", "replace"))
            return Written(Outcome.NOT_SENT, None, self._unavailable(refused))
        return self._met(outcome, whole) or self.insert([insert])[0]

    def swap(self, swaps: Sequence[Swap]) -> Sequence[Written]:
        items = [[swap.id.encode(), swap.expected.encode(), *change_arguments(swap.change, swap.rev)] for swap in swaps]
        return self._write(b"rev", items)

    def begin(self, begins: Sequence[Begin]) -> Sequence[Written]:
        items = [[begin.id.encode(), b"", *change_arguments(begin.change, begin.rev)] for begin in begins]
        return self._write(b"startable", items)

    def heartbeat(self, beats: Sequence[Beat]) -> Sequence[Written]:
        return self._write(b"token", [[beat.id.encode(), beat.token.encode(), *beat_arguments(beat)] for beat in beats])

    def _write(self, kind: bytes, items: Sequence[list[bytes]]) -> list[Written]:
        answers = self._run(redis_scripts.WRITE, *([kind, *batch] for batch in batches(items)))
        met = [pair for answer in answers for pair in pairs(answer)]
        return [self._met(*pair) or self._write(kind, [item])[0] for item, pair in zip(items, met, strict=True)]

    def _met(self, outcome: int, whole: bytes | None) -> Written | None:
        """The answer to a write; None where it is to be repeated, for the damaged holder of its key is out of the way.

        A record that proves to be damaged is put aside, and then it is as if it had not been there.
        """
        if whole is None:
            return Written(OUTCOMES[outcome], None)
        (found,), moved = self._readable([whole])
        if outcome == 2 and moved:
            return None
        return Written(OUTCOMES[outcome if found or outcome == 2 else 0], found)

    def _readable(self, wholes: Iterable[bytes]) -> tuple[list[Record | None], bool]:
        """These records; None for each that cannot be read, and whether such a one was put aside."""
        found: list[Record | None] = []
        moved = False
        for values in map(fields, wholes):
            try:
                found.append(Record.from_flat(values))
            except CorruptRecord as error:
                found.append(None)
                moved |= self._aside(values["id"], values.get("rev", b""), str(error))
        return found, moved

    def _aside(self, job_id: bytes, rev: bytes, reason: str) -> bool:
        """Put a record out of everybody's way, if it is as it was read, and of no newer queueport."""
        (moved,) = self._run(redis_scripts.ASIDE, [job_id, rev, reason.encode("utf-8", "replace")])
        if moved:
            place = (self.prefix + b"aside:" + job_id).decode("utf-8", "replace")
            log.warning("job %s was put aside to %s: %s", job_id.decode("utf-8", "replace"), place, reason)
        return bool(moved)

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [None if whole is None else _checked(whole) for whole in self._wholes(ids)]

    def _wholes(self, ids: Sequence[str]) -> list[bytes | None]:
        answers = self._run(redis_scripts.GET, *batches([[job_id.encode()] for job_id in ids]))
        return [whole for answer in answers for whole in answer]

    def find(self, query: Query) -> Sequence[Record]:
        size = PAGE if query.finished_before is not None else min(query.limit, PAGE)
        pages = (self._readable(page)[0] for page in self._pages(query, size, b"whole"))
        return list(islice((record for page in pages for record in page if record is not None), query.limit))

    def count(self, query: Query) -> int:
        if query.finished_before is not None:
            return sum(len(page) for page in self._pages(Query(**_filters(query)), PAGE, b"marked"))
        return int(self._run(redis_scripts.COUNT, _filter_arguments(query)[:4])[0])

    def _pages(self, query: Query, size: int, form: bytes) -> Iterator[list[Any]]:
        """What matches, newest first, by so many records looked at."""
        after, number = (query.after or "").encode(), b""
        while True:
            arguments = [*_filter_arguments(query), after, number, b"%d" % size, form]
            ((number, *page),) = self._run(redis_scripts.FIND, arguments)
            yield page
            if not number:
                return
            after = b""

    def overflow(self, state: JobState, keep: int, limit: int) -> Sequence[Record]:
        arguments = [state.value.encode(), b"%d" % keep, b"%d" % min(limit, PAGE)]
        return self._found(lambda: self._run(redis_scripts.OVERFLOW, arguments)[0])

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        arguments = [queue.encode(), b"%d" % priority, encoded(float(sent_before)), b"%d" % min(limit, PAGE)]
        return self._found(lambda: self._run(redis_scripts.UNRECEIVED, arguments)[0])

    def _found(self, search: Callable[[], list[bytes]]) -> list[Record]:
        """The records of a search; where some had to be put aside, it is searched again."""
        found, moved = self._readable(search())
        return self._found(search) if moved else [record for record in found if record is not None]

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        arguments = [b"%d" % min(limit, PAGE), encoded(float(claim)), rev.encode(), b"1" if leases else b"0"]
        ((newer, *claimed),) = self._run(redis_scripts.CLAIM_DUE, arguments)
        if newer and not self._newer_told:
            self._newer_told = True
            log.warning("some jobs have records of a newer queueport: such jobs are left alone here")
        return [record for record in self._readable(claimed)[0] if record is not None]

    def stats(self) -> StoreStats:
        return stats(self._run(redis_scripts.STATS, [])[0])

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        said = json.dumps([worker.queues, worker.tasks]).encode()
        self._run(redis_scripts.ANNOUNCE, [worker.name.encode(), said, encoded(float(ttl))])

    def workers(self) -> Sequence[WorkerStats]:
        return workers(self._run(redis_scripts.WORKERS, [])[0])

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        return self._waiting.wait(set(ids), timeout) if ids else []

    def _final(self, ids: Collection[str]) -> list[Record]:
        found = []
        for whole in self._wholes(list(ids)):
            try:
                record = None if whole is None else _checked(whole)
            except CorruptRecord:
                continue  # told by get
            if record is not None and record.state.final:
                found.append(record)
        return found

    def now(self) -> float:
        return float(self._run(redis_scripts.NOW, [])[0])

    def reckoned(self) -> float:
        if not self._server.known:
            self._server.heard(self.now())
        return self._server.now()

    def alongside(self, url: BackendURL) -> bool:
        return parse(url) == self.redis.target

    def check(self) -> Sequence[str]:
        return warnings(self.redis, self.prefix + b"aside")

    def close(self) -> None:
        self._waiting.close()
        self.redis.close()


def _checked(whole: bytes) -> Record:
    values = fields(whole)
    try:
        return Record.from_flat(values)
    except CorruptRecord as error:
        raise CorruptRecord(f"job {values['id'].decode('utf-8', 'replace')!r} is damaged: {error}") from None


def _filters(query: Query) -> dict[str, Any]:
    return {name: getattr(query, name) for name in ("state", "queue", "task", "error", "finished_before")}


def _filter_arguments(query: Query) -> list[bytes]:
    """State, queue, task, error and finished_before; empty for any."""
    before = None if query.finished_before is None else float(query.finished_before)
    return [
        encoded(value) for value in (query.state and query.state.value, query.queue, query.task, query.error, before)
    ]
