"""The Redis store: one server for many threads, processes and machines. For those who operate or change it.

A verb runs a script. Each run is atomic and uses the server's clock. A call with many items or records runs the script
several times. The scripts are in `lua/`, and `lua/__init__.py` lists the keys. A script does not recognise a damaged
record; this module does, when it decodes the answer. Another script then puts the record aside, if the record still has
the same rev and no newer release wrote it. `get` and `wait` leave damaged records in place.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar, Self, TypeVar

from redis import exceptions

from queueport.errors import BackendUnavailable
from queueport.spi.history import FOLDED, KEEP_HOURS, KEEP_MINUTES, HistoryCounts, HistoryQuery
from queueport.spi.record import RECORD_VERSION, CorruptRecord, Record
from queueport.spi.storage import document_text, renewal, search_too_long, unreadable_holder
from queueport.spi.store import (
    LOST_KEPT,
    MOST_LIMITS,
    Begin,
    Document,
    HeldJobs,
    Insert,
    JobStore,
    LeaseRenewal,
    LimitState,
    Query,
    StoreStats,
    Swap,
    WriteOutcome,
    WriteResult,
)
from queueport.spi.url import BackendURL
from queueport.stats import WorkerStats
from queueport.stores import LIMITS
from queueport.stores.redis import records
from queueport.stores.redis.connection import Redis
from queueport.stores.redis.health import not_connected, refused, unavailable, warnings
from queueport.stores.redis.lua import script
from queueport.stores.redis.records import batches, change_arguments, encoded, pairs, query_arguments
from queueport.stores.redis.url import RedisOptions, parse
from queueport.stores.redis.waiting import Waiting

__all__ = ["RedisStore"]

log: logging.Logger = logging.getLogger(__name__)

RETURN_SHARE = 0.1
"""The last part of `call_timeout`, as a fraction of it, is reserved for the answer to an insert. The server rejects an
insert that it reads in this part or later.
"""
PAGE = 500
"""The maximum number of records that one run of a search reads."""
SCANNED = 1_000
"""The number of keys that one step of a search for ids looks at. A step takes the server about a millisecond."""
OUTCOMES = {
    0: WriteOutcome.REFUSED,
    1: WriteOutcome.APPLIED,
    2: WriteOutcome.KEY_HELD,
    4: WriteOutcome.REPLACED,
    5: WriteOutcome.LIMITED,
}

T = TypeVar("T")


class RedisStore(JobStore):
    """Keeps records on one Redis server, under keys that begin with `{NAMESPACE}:`."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = RedisOptions
    own_clock = True
    poll: float = 0.25  # in its first 30 s, each dispatcher polls this often, even if a thousand dispatchers run

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
        self._server_ahead: float | None = None
        """The server's time, as the latest answer to an insert (at first, to `now`) contains it, minus this process's
        monotonic time when that answer arrived. The server read its clock before the answer arrived, so the difference
        is too large only if the server's clock was set back since."""
        self._waiting = Waiting(self.redis, self.prefix, self._final)
        self._newer_logged = False

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        return cls(url.full, namespace=namespace, call_timeout=call_timeout)

    def _run(
        self, verb: str, *batches: Iterable[bytes], once: bool = False, deadline: float | None = None
    ) -> list[Any]:
        """Run a verb's script once for each batch of arguments. Returns the answers. Raises BackendUnavailable.

        With `once`, a batch is not sent again if the server may have run it. `deadline` is on the monotonic clock;
        None: `call_timeout` seconds from now.
        """
        clock = b"" if self._clock is None else encoded(float(self._clock()))
        start = (self.prefix, b"%d" % RECORD_VERSION, clock)
        try:
            found = script(verb)
        except OSError as error:  # the file of the script cannot be read
            raise unavailable(self.redis.target.shown, error, self.redis.call_timeout) from error
        return self.redis.run(found, [(*start, *batch) for batch in batches], once=once, deadline=deadline)

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        deadline = time.monotonic() + self.redis.call_timeout
        results = self._insert(inserts, deadline)
        if None in results:  # some inserts were late: the server's clock was set forward, or the call was slow
            late = [insert for insert, one in zip(inserts, results, strict=True) if one is None]
            again = iter(self._insert(late, deadline))
            results = [next(again) if one is None else one for one in results]
        made = [one for one in results if one is not None]
        if len(made) < len(results):
            error = self._unavailable(exceptions.TimeoutError())
            error.rejected = tuple(each.record.id for each, one in zip(inserts, results, strict=True) if one is None)
            raise error
        return made

    def _insert(self, inserts: Sequence[Insert], deadline: float) -> list[WriteResult | None]:
        """The result of each insert; None if an insert reached the server too late.

        `deadline`, on the monotonic clock of this process, is the end of the call. A server that hangs may read an
        insert long after the producer has raised an error. Each batch of inserts therefore contains a time on the
        server's clock, after which the server rejects the batch.
        """
        sent = list(batches(records.inserts_arguments(inserts)))
        results: list[WriteResult | None] = []
        ids = tuple(insert.record.id for insert in inserts)
        try:
            if self._server_ahead is None:
                self._server_ahead = float(self._run("now", [], deadline=deadline)[0]) - time.monotonic()
            left = deadline - time.monotonic() - self.redis.call_timeout * RETURN_SHARE
            latest = encoded(self.approximate_now() + left)
        except BackendUnavailable as error:  # no insert was sent, because the server's clock could not be read
            error.rejected = ids
            raise
        try:
            answers = self._run("insert", *([latest, *batch] for batch in sent), once=True, deadline=deadline)
        except BackendUnavailable as error:
            if not_connected(error) or (len(sent) == 1 and refused(error)):
                error.rejected = ids
            raise
        for batch, (now, *answer) in zip(sent, answers, strict=True):
            self._server_ahead = float(now) - time.monotonic()
            mine = inserts[len(results) : len(results) + int(batch[0])]
            found = zip(mine, pairs(answer), strict=True) if answer else ()
            results += [self._inserted(insert, float(now), *pair) for insert, pair in found] or [None] * len(mine)
        return results

    def _inserted(self, insert: Insert, now: float, outcome: int, answer: bytes | None) -> WriteResult:
        if outcome == 1:
            return WriteResult(WriteOutcome.APPLIED, insert.change.applied(insert.record, insert.rev, now))
        if outcome == 3:
            refusal = exceptions.ResponseError((answer or b"").decode("utf-8", "replace"))
            return WriteResult(WriteOutcome.NOT_SENT, None, self._unavailable(refusal))
        return self._result(outcome, answer) or self.insert([insert])[0]

    def _unavailable(self, cause: exceptions.RedisError) -> BackendUnavailable:
        error = unavailable(self.redis.target.shown, cause, self.redis.call_timeout)
        error.__cause__ = cause
        return error

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        items = []
        for swap in swaps:
            known = b"0" if swap.record is None else b"1"
            change = change_arguments(swap.change, swap.rev, swap.id)
            items.append([swap.id.encode(), swap.expected.encode(), known, *change])
        answers = [pair for answer in self._run("swap", *batches(items)) for pair in pairs(answer)]
        return [self._swapped(swap, *pair) for swap, pair in zip(swaps, answers, strict=True)]

    def _swapped(self, swap: Swap, outcome: int, answer: bytes | None) -> WriteResult:
        if outcome == 1 and swap.record is not None and answer is not None:
            # The answer contains only the time of the change, because this process knows the record before the change.
            return WriteResult(WriteOutcome.APPLIED, swap.change.applied(swap.record, swap.rev, float(answer)))
        return self._result(outcome, answer) or self.swap([swap])[0]

    def begin(self, begins: Sequence[Begin]) -> Sequence[WriteResult]:
        return self._change("begin", [records.begin_arguments(one) for one in begins])

    def held(self, names: Sequence[str] | None, limit: int, after: str = "") -> Sequence[HeldJobs]:
        if names is not None and not names:
            return []
        wanted = [name.encode() for name in sorted(set(names or ()))]
        most = [b"%d" % MOST_LIMITS, b"%d" % limit]
        (answer,) = self._run("held", [*most, after.encode(), b"%d" % len(wanted), *wanted])
        now, found = float(answer[0]), list[HeldJobs]()
        for start in range(1, len(answer), 6):
            name, running, held, passed, full_at, packed = answer[start : start + 6]
            state = LimitState(int(running), int(held), int(passed), float(full_at))
            jobs = [record for record in self._readable(packed)[0] if record is not None]
            found.append(HeldJobs(name.decode(), state, jobs, now))
        return found

    def heartbeat(self, beats: Sequence[LeaseRenewal]) -> Sequence[WriteResult]:
        items = [[beat.id.encode(), beat.token.encode(), *change_arguments(renewal(beat), beat.rev)] for beat in beats]
        return self._change("heartbeat", items)

    def _change(self, verb: str, items: Sequence[list[bytes]]) -> list[WriteResult]:
        answers = [pair for answer in self._run(verb, *batches(items)) for pair in pairs(answer)]
        return [self._result(*pair) or self._change(verb, [item])[0] for item, pair in zip(items, answers, strict=True)]

    def _result(self, outcome: int, packed: bytes | None) -> WriteResult | None:
        """Decode the result of a write. If the record in the answer is damaged, try to put this record aside.

        If the damaged record is that of the key's holder, returns None after the record was put aside: the caller must
        write again. If the holder's record could not be put aside, the result is KEY_HELD with `unreadable_holder`. For
        every other damaged record, the result is REFUSED without a record, even if the change was applied.
        """
        if packed is None:
            return WriteResult(OUTCOMES[outcome], None)
        (found,), moved = self._readable([packed])
        if outcome in (2, 4) and found is None:
            holder = records.text_of(records.fields(packed)["id"])
            return None if moved else WriteResult(OUTCOMES[2], unreadable_holder(holder))
        return WriteResult(OUTCOMES[outcome if found else 0], found)

    def _readable(self, answer: Iterable[bytes]) -> tuple[list[Record | None], bool]:
        """Decode records, and put damaged ones aside. Returns the records, with None for each damaged one, and whether
        at least one was put aside.
        """
        found: list[Record | None] = []
        moved = False
        for values in map(records.fields, answer):
            try:
                found.append(Record.from_flat(values))
            except CorruptRecord as error:
                found.append(None)
                moved |= self._aside(values["id"], values.get("rev", ""), str(error))
        return found, moved

    def _aside(self, job_id: str | bytes, rev: str | bytes, reason: str) -> bool:
        """Put a record aside, and log this. Returns False if the record stays in place, or was removed.

        The record stays in place if its rev is no longer `rev`, or if a newer release wrote it.
        """
        known = [value.encode() if isinstance(value, str) else value for value in (job_id, rev)]
        (moved,) = self._run("aside", [*known, reason.encode("utf-8", "replace")])
        if moved:
            shown = records.text_of(job_id)
            place = f"{self.prefix.decode()}aside:{records.text_of(moved)}"
            log.warning("job %s was put aside under the key %s: %s", shown, place, reason)
        return bool(moved)

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [None if packed is None else records.record(packed) for packed in self._packed(ids)]

    def _packed(self, ids: Collection[str]) -> list[bytes | None]:
        answers = self._run("get", *batches([[job_id.encode()] for job_id in ids]))
        return [packed for answer in answers for packed in answer]

    def find(self, query: Query) -> Sequence[Record]:
        found: list[Record] = []
        given, after, seq = query_arguments(query), (query.after or "").encode(), b""
        unchecked = given[4:] == [b""] * 6  # every entry of the indexes matches, so as many as wanted are enough
        checks = min(query.limit, PAGE) if unchecked else PAGE
        while True:
            left = min(query.limit - len(found), PAGE)
            ((seq, *page),) = self._run("find", [*given, after, seq, b"%d" % left, b"%d" % checks])
            found += [record for record in self._readable(page)[0] if record is not None]
            if not seq or len(found) >= query.limit:
                return found
            after = b""

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        start, deadline = self.prefix + b"job:", time.monotonic() + self.redis.call_timeout
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", start + prefix.encode()) + b"*"
        # The first command names a key of the namespace, so that the node of a cluster that has these keys runs both.
        here, found, cursor = (b"EXISTS", self.prefix + b"counts"), set[str](), b"0"
        while True:
            scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % SCANNED)
            _, answer = answers = self.redis.ask([here, scan], deadline=deadline)
            for refusal in (one for one in answers if isinstance(one, exceptions.RedisError)):
                raise self._unavailable(refusal) from refusal
            cursor, keys = answer
            found |= {key[len(start) :].decode() for key in keys}
            if cursor == b"0":
                return sorted(found)[:limit]
            if time.monotonic() > deadline:
                raise search_too_long(prefix, self.redis.target.shown)

    def count(self, query: Query) -> int:
        return self.count_within(query, math.inf)[0]

    def count_within(self, query: Query, seconds: float) -> tuple[int, bool]:
        end, total, given, seq = time.monotonic() + seconds, 0, query_arguments(query), b""
        while True:
            ((seq, n),) = self._run("count", [*given, seq, b"%d" % PAGE])
            total += int(n)
            if not seq or time.monotonic() >= end:
                return total, not seq

    def overflow(self, query: Query, keep: int, limit: int) -> Sequence[Record]:
        return self._found("overflow", [*query_arguments(query)[:3], b"%d" % keep, b"%d" % min(limit, PAGE)])

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        arguments = [queue.encode(), b"%d" % priority, encoded(float(sent_before)), b"%d" % min(limit, PAGE)]
        return self._found("unreceived", arguments)

    def _found(self, verb: str, arguments: Sequence[bytes]) -> list[Record]:
        """Run a search, and return the records that can be read. Puts damaged records aside.

        If at least one was put aside, the search is run again, because it may find other records instead.
        """
        found, moved = self._readable(self._run(verb, arguments)[0])
        return self._found(verb, arguments) if moved else [record for record in found if record is not None]

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        arguments = [b"%d" % min(limit, PAGE), encoded(float(claim)), rev.encode(), b"1" if leases else b"0"]
        ((newer, *claimed),) = self._run("claim_due", arguments)
        if newer and not self._newer_logged:
            self._newer_logged = True
            log.warning(
                "a newer release of queueport wrote some jobs: this release does not run them; upgrade queueport"
            )
        return [record for record in self._readable(claimed)[0] if record is not None]

    def stats(self) -> StoreStats:
        return self._numbers(records.stats, self._run("stats", [])[0])

    def history(self, query: HistoryQuery) -> Sequence[HistoryCounts]:
        spans = records.history_arguments(query, self.approximate_now())
        return self._numbers(records.history, self._run("history", *spans))

    def _numbers(self, decode: Callable[[Any], T], answer: Any) -> T:
        """Decode numbers that the server counts. Raises BackendUnavailable if another program has changed them."""
        try:
            return decode(answer)
        except (ValueError, LookupError) as error:
            shown, keys = self.redis.target.shown, self.prefix.decode()
            raise BackendUnavailable(
                f"the counts in the Redis at {shown} cannot be read ({error}): another program has changed the keys "
                f"{keys}*"
            ) from error

    def fold_history(self) -> None:
        self._run("fold_history", [b"%d" % KEEP_MINUTES, b"%d" % KEEP_HOURS, b"%d" % FOLDED])

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        details = json.dumps([worker.queues, worker.tasks]).encode()
        self._run("announce", [worker.name.encode(), details, encoded(float(ttl)), encoded(LOST_KEPT)])

    def workers(self, *, lost: bool = False) -> Sequence[WorkerStats]:
        return records.workers(self._run("workers", [b"1" if lost else b"0"])[0])

    def documents(self, kind: str) -> Sequence[Document]:
        found: list[Document] = []
        for name, text in sorted(pairs(self._run("documents", [kind.encode()])[0])):
            try:
                found.append(records.document(kind, name, text))
            except CorruptRecord as error:
                (moved,) = self._run("aside_document", [kind.encode(), name, text, str(error).encode()])
                if moved:
                    place = f"{self.prefix.decode()}aside:{records.text_of(moved)}"
                    log.warning("a document was put aside under the key %s: %s", place, error)
        return found

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        inserts = [b"0"] if insert is None else [b"1", *records.insert_arguments(insert)]
        texts = (document.kind, document.name, expected or "", document.rev, document_text(document.value))
        return bool(self._run("put_document", [*(text.encode() for text in texts), *inserts])[0])

    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        return bool(self._run("delete_document", [kind.encode(), name.encode(), expected.encode()])[0])

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        return self._waiting.wait(set(ids), timeout) if ids else []

    def _final(self, ids: Collection[str]) -> list[Record]:
        """The records of the given jobs that are in a final state. Leaves out damaged records, because other
        verbs report them.
        """
        found = []
        for packed in self._packed(ids):
            try:
                record = None if packed is None else records.record(packed)
            except CorruptRecord:
                continue
            if record is not None and record.state.final:
                found.append(record)
        return found

    def now(self) -> float:
        return float(self._run("now", [])[0])

    def approximate_now(self) -> float:
        if self._server_ahead is None:
            self._server_ahead = self.now() - time.monotonic()
        return time.monotonic() + self._server_ahead

    def shares_server(self, url: BackendURL) -> bool:
        return parse(url) == self.redis.target

    def check(self) -> Sequence[str]:
        found = warnings(self.redis.target.shown, self.redis.ask, self.prefix + b"aside")
        self._run("check", [])
        return found

    def close(self) -> None:
        self._waiting.close()
        self.redis.close()
