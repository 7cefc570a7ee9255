"""Every code block of the documentation is run, or says in its title why not; every command is checked.

`blocks.py` says how a page is run. `pytest tests/examples/test_pages.py -k PAGE` runs one page.
"""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.examples.blocks import LANGUAGES, PAGES, ROOT, Block, blocks_of, check_call, queueport_calls, run_page

GRACE = 30
"""The default of `queueport worker --grace`, in seconds. A worker needs up to ten seconds more to exit."""


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


with_code = pytest.mark.parametrize("page", names([page for page in PAGES if any(b.runs for b in blocks_of(page))]))


@pytest.mark.timeout(240)  # a page starts up to twenty processes, each of which imports queueport
@with_code
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    run_page(ROOT / page, tmp_path)


@pytest.mark.parametrize("page", names(PAGES))
def test_each_block_names_its_language_and_a_block_that_is_not_run_says_why(page: str) -> None:
    wrong = [block.line - 1 for block in blocks_of(ROOT / page) if block.language is None]
    assert wrong == [], (
        f'write ```LANGUAGE, or ```LANGUAGE title="not run: REASON", in these lines of {page}; LANGUAGE is one of '
        f"{', '.join(LANGUAGES)}"
    )


@pytest.mark.parametrize("page", names(PAGES))
def test_python_that_is_not_run_is_valid_and_imports_names_that_exist(page: str) -> None:
    for block in blocks_of(ROOT / page):
        if block.language == "python" and not block.runs:
            check_python(block)


def check_python(block: Block) -> None:
    tree = compile(block.code, f"line {block.line}", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("queueport"):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert missing == [], f"{node.module} has no such names, in the block at line {block.line}"


@pytest.mark.parametrize("page", names(PAGES))
def test_every_queueport_command_exists_with_its_options(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_URL", "memory://")
    for block in blocks_of(ROOT / page):
        for words in calls_in(block):
            check_call(words)


def calls_in(block: Block) -> Iterator[list[str]]:
    """The arguments of each call of `queueport` in a console block, a Dockerfile, a systemd unit or a manifest."""
    if block.language == "console":
        for line, _ in block.commands:
            yield from queueport_calls(line)
    for command in commands_of(block):
        yield from queueport_calls(shlex.join(command))


def commands_of(block: Block) -> Iterator[list[str]]:
    """The commands that a Dockerfile, a systemd unit or a manifest starts."""
    if block.language == "dockerfile":
        for text in re.findall(r"^(?:CMD|ENTRYPOINT) (\[.*\])$", block.code, re.MULTILINE):
            yield json.loads(text)
    if block.language == "ini":
        yield shlex.split(unit(block)["ExecStart"])
    if block.language == "yaml":
        for document in yaml.safe_load_all(block.code):
            yield from (value for key, value in items(document) if key in ("command", "args"))


def unit(block: Block) -> dict[str, str]:
    """The settings of a systemd unit, of all its sections."""
    return dict(re.findall(r"^(\w+)=(.*)$", block.code, re.MULTILINE))


def items(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every key of a document with its value, at any depth."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield key, child
        yield from items(child)


DEPLOYED = [block for page in PAGES for block in blocks_of(page) if block.language in ("ini", "yaml", "dockerfile")]


def test_the_documentation_has_a_unit_a_dockerfile_and_a_manifest() -> None:
    assert {block.language for block in DEPLOYED} == {"ini", "yaml", "dockerfile"}
    assert any(list(commands_of(block)) for block in DEPLOYED if block.language == "dockerfile")


def test_a_systemd_unit_gives_the_worker_more_time_than_its_grace_period() -> None:
    for block in DEPLOYED:
        if block.language == "ini":
            service = unit(block)
            assert service["KillMode"] == "mixed"
            assert service["RestartPreventExitStatus"] == "2"
            assert int(service["TimeoutStopSec"]) >= GRACE + 10


def test_a_kubernetes_manifest_gives_the_worker_more_time_than_its_grace_period() -> None:
    pods = [
        document["spec"]["template"]["spec"]
        for block in DEPLOYED
        if block.language == "yaml"
        for document in yaml.safe_load_all(block.code)
        if isinstance(document, dict) and document.get("kind") == "Deployment"
    ]
    assert pods
    for pod in pods:
        assert pod["terminationGracePeriodSeconds"] >= GRACE + 10
        (container,) = pod["containers"]
        probe = container["livenessProbe"]
        assert probe["exec"]["command"][:2] == ["queueport", "check"]
        assert probe["timeoutSeconds"] > 5, "the check imports Python code and waits up to `call_timeout` for the store"
