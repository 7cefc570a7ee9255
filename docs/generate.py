"""Write the generated parts of the READMEs and of docs/. For contributors and CI.

    python docs/generate.py             write them, after a change of settings, of the contract or of an adapter's size
    python docs/generate.py --check     change nothing, and exit with code 1 if a file is out of date, or if a page is
                                        missing in the navigation of the site

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`, on lines of its own or within a sentence. NAME is a
key of PARTS. The JSON schemas of the command line are files of their own, in docs/json.
"""

import ast
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator

from queueport import Capability, connect
from queueport.cli.documents import schemas
from queueport.spi.settings import UNITS, Settings
from queueport.testing.contract.lines import GROUPS, Line
from queueport.testing.contract.lines import PARTS as HARNESS_PARTS

ROOT = Path(__file__).parents[1]
ADAPTERS = ROOT / "adapters"
EXAMPLE = ROOT / "examples" / "05_write_an_adapter.py"
PART = re.compile(r"(?<=<!-- generated: )(\w+) -->(\n?).*?(?=<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def reports() -> list[dict[str, Any]]:
    """The reports of the contract suite, one for each backend."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "contract").glob("*.json"))]


def having(capability: Capability) -> str:
    """The backends with this capability, for a sentence."""
    names = [report["backend"] for report in reports() if capability.value in report["capabilities"]]
    return ", ".join(name for name in names if name != "spool")  # the adapter in the examples


def capabilities() -> str:
    """A table of the backends: their capabilities and the contract lines that hold, from the suite's reports."""
    header = ["backend", "lines that hold", *(capability.value.replace("_", " ") for capability in Capability)]
    return table(header, (_abilities(report) for report in reports()))


def _abilities(report: dict[str, Any]) -> list[str]:
    outcomes = {line: outcome.partition(":")[0] for line, outcome in report["lines"].items()}
    held = f"{sum(outcome == 'passed' for outcome in outcomes.values())} of {len(outcomes)}"
    for outcome in ("skipped", "failed"):
        names = ", ".join(line for line in outcomes if outcomes[line] == outcome)
        held += f"; {outcome}: {names}" if names else ""
    return [report["backend"], held, *("yes" if c.value in report["capabilities"] else "no" for c in Capability)]


def settings() -> str:
    """A table of the settings that every backend has."""
    rows = ([f"`{name}`", f"`QUEUEPORT_{name.upper()}`", *about] for name, *about in _fields(Settings))
    return table(["setting", "variable", "default", "meaning"], rows)


def options(package: str = "queueport") -> str:
    """A table of the URL options of this package's backends and stores. Schemes with the same options share rows."""
    found: dict[type[Any], list[str]] = defaultdict(list)
    for scheme, entry in sorted({**connect.backends(), **connect.stores()}.items()):
        if entry.module.partition(".")[0] == package and (kind := entry.load().settings) is not None:
            found[kind].append(f"`{scheme}://`")
    rows = ([", ".join(urls), f"`{name}`", *about] for kind, urls in found.items() for name, *about in _fields(kind))
    return table(["URL", "option", "default", "meaning"], rows)


def harness() -> str:
    """The test file of the example adapter, as a code block."""
    title = "not run: this is tests/contract/test_spool.py"
    return f'```python title="{title}"\n{(ROOT / "tests" / "contract" / "test_spool.py").read_text()}```\n'


def lines() -> str:
    """A section for each group of the contract, with a table of its lines."""
    header = ["line", "what every backend must do", "how the suite checks it", "needs"]
    sections = [
        f"### {group.letter}: {group.name}\n\n{group.about}\nTests: `queueport.testing.contract.{group.module}`.\n\n"
        + table(header, ([line.id, line.sentence, line.check, _needs(line)] for line in group.lines))
        for group in GROUPS
    ]
    return "\n" + "\n".join(sections) + "\n"


def _needs(line: Line) -> str:
    """The capabilities and the parts of the harness that a line needs."""
    needs = [capability.name for capability in line.needs]
    needs += [f"{capability.name} for some tests" for capability in line.partly]
    return ", ".join([*needs, *(f"`{part}`" for part in line.parts)])


def quick() -> str:
    """The ids of the lines in the quick subset, for a sentence."""
    return ", ".join(line.id for group in GROUPS for line in group.lines if line.quick)


def parts() -> str:
    """A table of the parts of a harness."""
    return table(["part", "what it does"], ([f"`{name}`", text] for name, text in HARNESS_PARTS.items()))


def sizes() -> str:
    """A table of the number of lines in the example's transport and in each package of the adapters."""
    rows = [["the example, `SpoolTransport`", f"{_example_size():,}"]]
    rows += [[f"`{name}`", f"{_hundreds(size):,}"] for name, size in _package_sizes().items()]
    return table(["package", "lines"], rows)


def example_size() -> str:
    """The lines of the example's transport, as a number for a sentence."""
    return f"{_example_size():,}"


def adapter_sizes() -> str:
    """The lines of the smallest and of the largest adapter, for a sentence. An adapter is a whole distribution."""
    sizes: Counter[str] = Counter()
    for name, size in _package_sizes().items():
        sizes[name.partition(".")[0]] += size
    return f"{_hundreds(min(sizes.values())):,} to {_hundreds(max(sizes.values())):,}"


def _example_size() -> int:
    tree = ast.parse(EXAMPLE.read_text())
    (transport,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SpoolTransport"]
    return _hundreds((transport.end_lineno or 0) - transport.lineno + 1)


def _package_sizes() -> dict[str, int]:
    """The number of lines of each package of the adapters, including docstrings and comments."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for source in sorted(ADAPTERS.glob("[!_]*/src")):
        for module in sorted(source.rglob("*.py")):
            sizes[".".join(module.parent.relative_to(source).parts)] += len(module.read_text().splitlines())
    return sizes


def _hundreds(number: int) -> int:
    """The number rounded to hundreds, so that a small change of the code does not make the documentation stale."""
    return round(number, -2)


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        timed = any(isinstance(note, BeforeValidator) for note in field.metadata) and isinstance(field.default, float)
        default = _with_unit(field.default) if timed else field.default
        yield name, "" if default is None else f"`{default}`", field.description or ""


def _with_unit(seconds: float) -> str:
    """A duration as a URL or a variable takes it, such as `60s` or `1d`: whole days in days, all others in seconds."""
    unit = "d" if seconds % UNITS["d"] == 0 else "s"
    return f"{seconds / UNITS[unit]:g}{unit}"


PARTS: dict[str, Callable[[], str]] = {
    "adapter_sizes": adapter_sizes,
    "capabilities": capabilities,
    "example_size": example_size,
    "groups": partial(having, Capability.GROUPS),
    "harness": harness,
    "lines": lines,
    "native_dead_letters": partial(having, Capability.NATIVE_DEAD_LETTERS),
    "options": options,
    "parts": parts,
    "priority": partial(having, Capability.PRIORITY),
    "quick": quick,
    "settings": settings,
    "sizes": sizes,
}


def generated(path: Path, text: str) -> str:
    """The text of a page with up-to-date parts. An adapter's README contains only the options of that adapter."""
    adapter = path.relative_to(ROOT).parts[1] if path.is_relative_to(ADAPTERS) else None
    known = PARTS if adapter is None else {"options": partial(options, f"queueport_{adapter}")}
    return PART.sub(lambda part: f"{part[1]} -->{part[2]}{known[part[1]]()}", text)


def unlisted() -> list[str]:
    """The pages that are missing in the navigation of the site. Decisions have a list of their own, which is there."""
    listed = set(re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    readmes = {page.relative_to(ROOT).as_posix() for page in ADAPTERS.glob("[!_]*/README.md")}
    return sorted(page for page in pages | readmes if page not in listed and not page.startswith("decisions/"))


def schema_files() -> dict[Path, str]:
    """The JSON schema of each document that a command prints, by its file."""
    folder = ROOT / "docs" / "json"
    return {folder / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas().items()}


def main(check: bool) -> int:
    """Write or check the pages and the schemas, and return the exit code."""
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ADAPTERS.glob("[!_]*/README.md")))
    files = schema_files()
    old = {path: path.read_text() if path.exists() else "" for path in (*pages, *files)}
    new = {**{path: generated(path, old[path]) for path in pages}, **files}
    stale = {path: text for path, text in new.items() if text != old[path]}
    extra = sorted({*(ROOT / "docs" / "json").glob("*")} - {*files})
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} is {'out of date: run `python docs/generate.py`' if check else 'written'}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for path in extra:
        print(f"{path.relative_to(ROOT)} belongs to no document of a command: delete it")
    missing = unlisted()
    for page in missing:
        print(f"{page} is missing in the site: add the line `- TITLE: {page}` under `nav` in mkdocs.yml")
    return int(bool(missing or extra) or (check and bool(stale)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--check"]))
