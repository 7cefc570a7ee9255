"""Write the parts of the READMEs and docs/ that come from code and from runs of the contract. For contributors and CI.

    python docs/generate.py             after a change of settings, or with new reports in docs/contract
    python docs/generate.py --check     exit code 1 if a file is stale; changes nothing

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is one of PARTS.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from queueport import Capability, connect
from queueport.settings import Settings

ROOT = Path(__file__).parents[1]
ADAPTERS = ROOT / "adapters"
PART = re.compile(r"(?<=<!-- generated: )(\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def capabilities() -> str:
    """What each backend can do, by the reports of its contract runs."""
    reports = [json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "contract").glob("*.json"))]
    header = ["backend", "lines of the contract", *(capability.value.replace("_", " ") for capability in Capability)]
    return table(header, (_abilities(report) for report in reports))


def _abilities(report: dict[str, Any]) -> list[str]:
    ends = {line: outcome.partition(":")[0] for line, outcome in report["lines"].items()}
    kept = f"{sum(end == 'passed' for end in ends.values())} of {len(ends)}"
    for end, told in (("skipped", "it lacks what these ask for"), ("failed", "BROKEN")):
        names = ", ".join(line for line in ends if ends[line] == end)
        kept += f"; {told}: {names}" if names else ""
    return [report["backend"], kept, *("yes" if c.value in report["capabilities"] else "no" for c in Capability)]


def settings() -> str:
    """The settings of every backend."""
    rows = ([f"`{name}`", f"`QUEUEPORT_{name.upper()}`", *about] for name, *about in _fields(Settings))
    return table(["setting", "variable", "default", "meaning"], rows)


def options(package: str = "queueport") -> str:
    """The URL options of the backends and stores in that package; schemes of one class share their lines."""
    found: dict[type[Any], list[str]] = defaultdict(list)
    for scheme, entry in sorted({**connect.backends(), **connect.stores()}.items()):
        if entry.module.partition(".")[0] == package and (kind := entry.load().settings) is not None:
            found[kind].append(f"`{scheme}://`")
    rows = ([", ".join(urls), f"`{name}`", *about] for kind, urls in found.items() for name, *about in _fields(kind))
    return table(["URL", "option", "default", "meaning"], rows)


def harness() -> str:
    """The test file of the example adapter."""
    return f"```python\n{(ROOT / 'tests' / 'contract' / 'test_spool.py').read_text()}```\n"


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        default = int(field.default) if isinstance(field.default, float) and field.default % 1 == 0 else field.default
        yield name, "" if default is None else f"`{default}`", field.description or ""


PARTS: dict[str, Callable[[], str]] = {
    "capabilities": capabilities,
    "harness": harness,
    "options": options,
    "settings": settings,
}


def generated(path: Path, text: str) -> str:
    """The text with its parts written anew; an adapter's README has the options of that adapter."""
    adapter = path.relative_to(ROOT).parts[1] if path.is_relative_to(ADAPTERS) else None
    parts = PARTS if adapter is None else {"options": partial(options, f"queueport_{adapter}")}
    return PART.sub(lambda part: f"{part[1]} -->\n{parts[part[1]]()}", text)


def main(check: bool) -> int:
    """The exit code."""
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ADAPTERS.glob("[!_]*/README.md")))
    old = {path: path.read_text() for path in pages}
    stale = {path: new for path, text in old.items() if (new := generated(path, text)) != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} is {'stale: run `python docs/generate.py`' if check else 'written'}")
        if not check:
            path.write_text(text)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--check"]))
