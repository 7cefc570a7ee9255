"""The history of one memory store, the model for the history of every other store. For the memory store."""

from __future__ import annotations

from queueport.spi.history import (
    FOLDED,
    HOUR,
    KEEP_HOURS,
    KEEP_MINUTES,
    MINUTE,
    OTHER,
    PAIRS,
    HistoryCounts,
    HistoryQuery,
    Pair,
    gathered,
    start_of,
)

__all__ = ["History"]


class History:
    """The numbers of each minute and each hour, by pair of queue and task. Callers must hold the lock of the store."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[int, dict[Pair, dict[str, int]]]] = {MINUTE: {}, HOUR: {}}
        """For each length of an interval: the intervals by their start."""

    def count(self, pair: Pair, name: str, now: float) -> None:
        """Count a change with these events, as `events` returns them, in the present minute."""
        self._add(MINUTE, start_of(MINUTE, now), pair, name, 1)

    def _add(self, step: int, at: int, pair: Pair, name: str, n: int) -> None:
        pairs = self._kept[step].setdefault(at, {})
        if pair not in pairs and len(pairs.keys() - {OTHER}) >= PAIRS:
            pair = OTHER
        counts = pairs.setdefault(pair, {})
        counts[name] = counts.get(name, 0) + n

    def fold(self, now: float) -> None:
        """See `JobStore.fold_history`."""
        for at in self._ended(MINUTE, now - KEEP_MINUTES):
            for pair, counts in sorted(self._kept[MINUTE].pop(at).items()):
                for name, n in counts.items():
                    self._add(HOUR, start_of(HOUR, at), pair, name, n)
        for at in self._ended(HOUR, now - KEEP_HOURS):
            del self._kept[HOUR][at]

    def _ended(self, step: int, before: float) -> list[int]:
        return sorted(at for at in self._kept[step] if at + step <= before)[:FOLDED]

    def find(self, query: HistoryQuery) -> list[HistoryCounts]:
        """See `JobStore.history`."""
        return gathered(
            (query.place(at, pair), counts.items())
            for intervals in self._kept.values()
            for at, pairs in intervals.items()
            if query.since <= at < query.until
            for pair, counts in pairs.items()
            if query.matches(pair)
        )
