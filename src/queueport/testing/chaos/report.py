"""The outcome of a run as text and as data. For the command and for docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from queueport.testing.chaos.document import ChaosRun, Found
from queueport.testing.chaos.run import Outcome

__all__ = ["document", "lines"]

SHOWN = 10
"""The number of sentences about each kind of breach that the text shows."""


def document(outcome: Outcome) -> ChaosRun:
    """The outcome as plain JSON values."""
    plan, evidence, verdict = outcome.plan, outcome.evidence, outcome.verdict
    told = Counter(evidence.told.values())
    found = verdict.breaches
    return ChaosRun(
        url=outcome.url,
        ok=verdict.ok,
        seed=plan.seed,
        lease=evidence.lease,
        workers=plan.workers,
        producers=plan.producers,
        jobs=plan.jobs,
        faults=dict(Counter(fault.kind for fault in evidence.faults)),
        accepted=told["accepted"],
        rejected=told["rejected"],
        unknown=told["unknown"],
        runs=len(evidence.runs),
        repeated=verdict.repeated,
        superseded=verdict.superseded,
        noticed={kind: round(seconds, 2) for kind, seconds in verdict.noticed.items()},
        recovery={kind: round(seconds, 2) for kind, seconds in verdict.recovery.items()},
        breaches=Found(
            lost=found["lost"],
            stuck=found["stuck"],
            overlapping=found["overlapping"],
            wrong=found["wrong"],
            stats=found["stats"],
            late=found["late"],
        ),
        unexpected=outcome.unexpected,
        seconds=round(outcome.seconds, 1),
    )


def lines(outcome: Outcome) -> Iterator[str]:
    """The outcome as lines of text."""
    made = document(outcome)
    faults = ", ".join(f"{count} {kind}" for kind, count in made["faults"].items())
    yield f"faults: {faults or 'none'}"
    yield f"producers were told: accepted {made['accepted']}, rejected {made['rejected']}, unknown {made['unknown']}"
    yield f"runs: {made['runs']}, of which {made['repeated']} repeated and {made['superseded']} superseded"
    yield f"longest time until a loss was noticed: {_seconds(made['noticed'])}; the bound is {made['lease'] + 5:g} s"
    yield f"longest time until such a job started again: {_seconds(made['recovery'])}; waits for other jobs are allowed"
    yield ", ".join(f"{kind} {len(found)}" for kind, found in outcome.verdict.breaches.items())
    for kind, found in outcome.verdict.breaches.items():
        yield from (f"{kind}: {sentence}" for sentence in found[:SHOWN])
        if len(found) > SHOWN:
            yield f"{kind}: and {len(found) - SHOWN} more"
    yield from (f"unexpected: {sentence}" for sentence in made["unexpected"])
    if made["unexpected"] or not made["ok"]:
        yield f"the ledger and the logs are in {outcome.folder}"
    words = "no breach" if made["ok"] else "BREACHES"
    yield f"{made['url']}: {words} in {made['seconds']:g} s with seed {made['seed']}"


def _seconds(longest: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in longest.items()) or "no job was hit"
