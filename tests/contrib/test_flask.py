"""Flask: the app's context in tasks, its configuration, and its command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = """
from flask import Flask, current_app, request

from queueport import current_job, get_queue, task
from queueport.contrib.flask import Queueport

app = Flask(__name__)
app.config["GREETING"] = "hello"
app.config["QUEUEPORT_URL"] = "sqlite:///jobs.db"
Queueport(app)


@task
def greet(name: str) -> str:
    return f"{current_app.config['GREETING']} {name}"


@app.post("/greet")
def enqueue():
    return {"job": greet.enqueue(request.form["name"]).id}, 202
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEPORT_")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_task_has_the_apps_context_and_the_apps_queue(tmp_path: Path, processes: str) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    enqueue = "import shop; print(shop.app.test_client().post('/greet', data={'name': 'ann'}).get_json()['job'])"
    (tmp_path / "enqueue.py").write_text(enqueue)
    job_id = run(tmp_path, "enqueue").stdout.strip()
    command = ("flask", "--app", "shop", "queueport")
    worked = run(tmp_path, *command, "worker", "shop", "--burst", f"--processes={processes}")
    assert worked.returncode == 0, worked.stderr
    shown = run(tmp_path, *command, "status", job_id, "--json")
    assert '"hello ann"' in shown.stdout, shown.stderr


def test_the_command_fails_as_queueport_does(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    failed = run(tmp_path, "flask", "--app", "shop", "queueport", "status", "nosuch")
    assert failed.returncode == 1
    assert "nosuch" in failed.stderr
    helped = run(tmp_path, "flask", "--app", "shop", "queueport", "--help")
    assert "worker" in helped.stdout
