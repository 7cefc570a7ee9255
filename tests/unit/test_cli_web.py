"""`queueport web`: the refusals, and a real server with its dashboard."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from queueport import get_queue
from queueport.cli.app import app
from queueport.testing.servers import free_port


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QUEUEPORT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(*arguments: str, code: int = 2) -> str:
    result = CliRunner().invoke(app, ["web", *arguments])
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "jobs.example"])
def test_other_machines_are_let_in_only_with_a_password(host: str) -> None:
    error = refused("--url", "sqlite:///jobs.db", "--host", host)
    assert f"--host {host} lets other machines see the jobs: set a password with --password-file" in error


def test_wrong_passwords_and_urls_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    url = ("--url", "sqlite:///jobs.db")
    assert "empty is empty" in refused(*url, "--password-file", "empty")
    assert "nosuch cannot be read" in refused(*url, "--password-file", "nosuch")
    assert "no queue URL is given" in refused()
    assert "no backend for nosuch:// is installed" in refused(*url, "--url", "nosuch://x")
    assert "is not a regular expression" in refused(*url, "--mask", "(")
    monkeypatch.setenv("QUEUEPORT_WEB_PASSWORD", " ")
    assert "QUEUEPORT_WEB_PASSWORD is empty" in refused(*url)


def test_a_port_that_is_taken_is_an_error() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refused("--url", "sqlite:///jobs.db", "--port", str(port), code=1)
    assert f"cannot listen on 127.0.0.1, port {port}" in error


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "run `pip install 'queueport[web]'`" in refused("--url", "sqlite:///jobs.db")


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the command, and give the address that it prints."""
    command = [sys.executable, "-m", "queueport", "web", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("the dashboard is at http://")
            yield line.removeprefix("the dashboard is at ").partition(";")[0], process
        finally:
            process.kill()


def read(address: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as response:
        text: str = response.read().decode()
        return text


def test_modules_declare_the_tasks_whose_arguments_the_form_checks(tmp_path: Path) -> None:
    assert "there is no module 'nosuch'" in refused("--url", "sqlite:///jobs.db", "--module", "nosuch")
    (tmp_path / "webshop.py").write_text(
        "from queueport import task\n\n@task(name='web.pack')\ndef pack(n: int) -> None: ...\n"
    )
    url = f"sqlite:///{tmp_path}/jobs.db"
    with get_queue(url) as queue:
        job_id = queue.enqueue("web.pack", 1).id
    options = ("--url", url, "--port", "0", "--allow-actions", "--module", "webshop")
    with serving(*options, PYTHONPATH=str(tmp_path)) as (address, _):
        page = read(f"{address}sqlite/actions/replay?id={job_id}")
    assert "The annotations of the task check the arguments." in page


def test_the_command_serves_several_backends_and_stops_at_a_signal(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    for url in urls:
        with get_queue(url) as queue:
            queue.enqueue("shop.pack", 1)
    with serving("--url", urls[0], "--url", urls[1], "--port", "0") as (address, process):
        page = read(address)
        assert "one.db" in page
        assert "two.db" in page
        assert "Read-only" in page
        with pytest.raises(urllib.error.HTTPError, match="403"):
            read(address, Host="evil.example")
        process.send_signal(signal.SIGTERM)  # SIGINT is ignored where the tests run in the background of a shell
        assert process.wait(20) == -signal.SIGTERM


def test_the_command_asks_for_the_password_of_the_environment(tmp_path: Path) -> None:
    port = str(free_port())
    url = f"sqlite:///{tmp_path}/jobs.db"
    options = ("--host", "0.0.0.0", "--port", port, "--allow-actions")
    with serving(*options, QUEUEPORT_URL=url, QUEUEPORT_WEB_PASSWORD="pw\n"):
        address = f"http://127.0.0.1:{port}/"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            read(address)
        login = base64.b64encode(b"ann:pw").decode()
        assert "Actions are allowed, as ann" in " ".join(read(address, Authorization=f"Basic {login}").split())
