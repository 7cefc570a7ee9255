"""Every example, as a process of its own, prints what its docstring promises; the fourth one on every backend.

Those that join an existing app do so on either of its brokers, and the app's own module knows nothing of it.
"""

import ast
import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from adapters.rabbitmq.tests.broker import Broker
from tests.servers import aws_server, rabbitmq_server, redis_server
from tests.servers.server import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERED = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
SWAP = "04_swap_backend.py"
SHOPS = {"06_join_celery.py": "celery_shop.py", "07_join_dramatiq.py": "dramatiq_shop.py"}
"""The application that each of these joins; they need a broker."""
URLS: dict[str, Callable[[Path], str]] = {
    "sqlite": lambda folder: f"sqlite:///{folder}/jobs.db",
    "spool": lambda folder: f"spool:///{folder}/spool",
    "spool + sqlite": lambda folder: f"spool:///{folder}/spool?store=sqlite:///{folder}/jobs.db",
    "rabbitmq + redis": lambda _: f"{rabbitmq_server().url}?store={redis().url}",
    "rabbitmq (classic) + redis": lambda _: f"{rabbitmq_server().url}?store={redis().url}&queue_type=classic",
    "sqs + redis": lambda _: f"sqs://us-east-1?endpoint={aws_server('sqs').url}&create=true&wait=1&store={redis().url}",
    "sqs + dynamodb": lambda _: (
        f"sqs://us-east-1?endpoint={aws_server('sqs').url}&create=true&wait=1&store={dynamodb()}"
    ),
    "celery + redis": lambda _: f"celery+{redis().url}",
    "celery + rabbitmq + redis": lambda _: f"celery+{rabbitmq_server().url}?store={redis().url}",
    "rq + redis": lambda _: f"rq+{redis().url}",
    "dramatiq + redis": lambda _: f"dramatiq+{redis().url}",
    "dramatiq + rabbitmq + redis": lambda _: f"dramatiq+{rabbitmq_server().url}?store={redis().url}",
}
"""Each beside memory://, which is the example's default."""


def printed(example: str, *arguments: str) -> str:
    """What it prints; its log lines go elsewhere."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr
    return run.stdout


def redis() -> Server:
    """One of this test process's own, in which anything may be left behind."""
    return redis_server(private=True)


def dynamodb() -> str:
    """The store, percent-encoded for it has options of its own."""
    return quote(f"dynamodb://us-east-1/examples?endpoint={aws_server('dynamodb').url}&create=true", safe="")


def promised(example: str) -> str:
    """The indented block that ends its docstring."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / example).read_text()))
    assert docstring is not None
    return textwrap.dedent(docstring.rpartition(":\n\n")[2]) + "\n"


def test_there_are_seven_examples() -> None:
    assert [name[:2] for name in NUMBERED] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("example", [name for name in NUMBERED if name not in SHOPS])
def test_an_example_prints_what_it_promises(example: str) -> None:
    assert printed(example) == promised(example)


@pytest.mark.parametrize("backend", URLS)
def test_every_backend_prints_the_same(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    namespace = f"swap_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("QUEUEPORT_NAMESPACE", namespace)
    try:
        assert printed(SWAP, URLS[backend](tmp_path)) == promised(SWAP)
    finally:
        if "rabbitmq" in backend:
            Broker(rabbitmq_server().url, namespace).clean("default", "default.DQ", "default.XQ")


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("example", SHOPS)
def test_an_existing_app_is_joined(example: str, broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = f"join_{uuid.uuid4().hex[:12]}"
    shop = f"{namespace}_shop"
    server, store = rabbitmq_server() if broker == "rabbitmq" else redis(), redis().url
    monkeypatch.setenv("QUEUEPORT_NAMESPACE", namespace)
    monkeypatch.setenv("QUEUEPORT_STORE", store)
    monkeypatch.setenv("SHOP_BROKER", server.url)
    monkeypatch.setenv("SHOP_RESULTS", store)
    monkeypatch.setenv("SHOP_QUEUE", shop)
    try:
        assert printed(example) == promised(example)
    finally:
        if broker == "rabbitmq":
            with Broker(server.url, namespace).channel() as channel:
                for queue in (shop, f"{namespace}.default", f"{namespace}.{shop}"):
                    for ending in ("", ".DQ", ".XQ"):
                        channel.queue_delete(queue + ending)
                channel.exchange_delete(shop)


@pytest.mark.parametrize("example", SHOPS)
def test_joining_takes_less_than_ten_lines(example: str) -> None:
    before, joining, after = re.split(r"# Joining (?:begins|ends) here.*\n", (EXAMPLES / example).read_text())
    assert len(joining.splitlines()) < 10
    assert "QUEUEPORT_URL" in joining
    assert "QUEUEPORT_URL" not in before + after
    assert "queueport" not in (EXAMPLES / SHOPS[example]).read_text().lower()


@pytest.mark.parametrize("example", [*NUMBERED, *SHOPS.values(), "tasks.py"])
def test_an_example_is_short(example: str) -> None:
    lines = len((EXAMPLES / example).read_text().splitlines())
    assert lines <= (200 if example.startswith("05") else 80)
