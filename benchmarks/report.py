"""The tables and the chart of the benchmark's figures, and the page `docs/benchmarks.md`."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pairs import PAIRS

__all__ = ["replace_part", "table", "write"]

FIGURES: Mapping[str, str] = {
    "single": "enqueue /s",
    "bulk": "`enqueue_many` /s",
    "run": "run /s",
    "run_1ms": "run 1 ms jobs /s",
    "cpu_ms": "CPU ms a job",
    "start_p50_ms": "enqueue to start, median ms",
    "start_p95_ms": "95 % ms",
    "start_p99_ms": "99 % ms",
    "callers_p50_ms": "enqueue from 8 threads, median ms",
    "callers_p99_ms": "99 % ms",
    "reads": "result reads /s",
    "stored_bytes": "bytes a job",
    "rss_mb": "worker MiB",
}


def median(rounds: Sequence[Mapping[str, Any]], side: str, figure: str) -> float | None:
    """The median of one figure over the rounds; None if the side does not have it."""
    values = [each[side][figure] for each in rounds if figure in each[side]]
    return statistics.median(values) if values else None


def ratios(measured: Mapping[str, Any], name: str) -> tuple[list[float], list[float], list[float]]:
    """The ratios of queueport's speed to the library's, a tuple for each round; see `Pair.targets`."""
    rounds = measured["pairs"][name]
    compared = measured["pairs"].get("celery-rabbitmq", []) if name == "rabbitmq" else rounds
    return (
        [each["ours"]["single"] / each["native"]["single"] for each in rounds],
        [each["ours"]["bulk"] / each["native"]["single"] for each in rounds],
        [each["ours"]["run"] / other["native"]["run"] for each, other in zip(rounds, compared, strict=False)],
    )


def table(measured: Mapping[str, Any]) -> str:
    """The ratios and the figures of all pairs, in Markdown."""
    lines = [
        f"{measured['machine']}; " + ", ".join(f"{name} {version}" for name, version in measured["versions"].items()),
        "",
        "Ratios, queueport to the library itself: median (lowest to highest of the rounds), and the target.",
        "Where the word **target** is bold, the target is missed.",
        "",
        "| pair | enqueue | `enqueue_many` to the library's enqueue | run |",
        "| --- | --- | --- | --- |",
    ]
    for name in measured["pairs"]:
        targets = PAIRS[name].targets or (None, None, None)
        cells = [_ratio(values, least) for values, least in zip(ratios(measured, name), targets, strict=True)]
        lines.append(f"| {PAIRS[name].title} | {' | '.join(cells)} |")
    for name, rounds in measured["pairs"].items():
        lines += ["", f"**{PAIRS[name].title}.** {PAIRS[name].guarantees}", ""]
        lines += ["| | library | queueport |", "| --- | --- | --- |"]
        for figure, title in FIGURES.items():
            native, ours = (median(rounds, side, figure) for side in ("native", "ours"))
            lines.append(f"| {title} | {_number(native)} | {_number(ours)} |")
    return "\n".join(lines)


def chart(measured: Mapping[str, Any], path: Path) -> None:
    """Draw the ratios of all pairs. The line at 1 stands for the library itself."""
    from matplotlib.figure import Figure  # only `--write` needs this package

    names = list(measured["pairs"])
    figure = Figure(figsize=(8, 0.9 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for number, title in enumerate(("enqueue", "enqueue_many", "run")):
        values = [ratios(measured, name)[number] for name in names]
        places = [row + 0.25 * (number - 1) for row in range(len(names))]
        axes.barh(places, [statistics.median(some) if some else 0 for some in values], 0.22, label=title)
    axes.set_yticks(range(len(names)), [PAIRS[name].title for name in names])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("queueport's speed, as a multiple of the library's own")
    axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def write(measured: Mapping[str, Any], docs: Path) -> None:
    """Replace the figures, the chart and the tables in `docs`."""
    (docs / "benchmarks.json").write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
    chart(measured, docs / "benchmarks.svg")
    replace_part(docs, "measured", table(measured))


def replace_part(docs: Path, name: str, text: str) -> None:
    """Replace the part of `docs/benchmarks.md` that begins with a comment of this name."""
    page, begin, end = docs / "benchmarks.md", f"<!-- {name} -->", "<!-- end -->"
    part = f"{begin}\n{text}\n{end}"
    page.write_text(re.sub(f"{begin}.*?{end}", lambda _: part, page.read_text(), flags=re.DOTALL))


def _ratio(values: Sequence[float], least: float | None) -> str:
    if not values:
        return ""
    target = "" if least is None else f", {'target' if statistics.median(values) >= least else '**target**'} {least:g}"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}){target}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
