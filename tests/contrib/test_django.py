"""Django and its tasks, in a project of its own, with real worker processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from queueport.testing.waiting import eventually

PROJECT = Path(__file__).parent / "django_shop"


class Project:
    """The project, with a database and a queue in a folder."""

    def __init__(self, folder: Path) -> None:
        self.queue = f"sqlite:///{folder}/jobs.db"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEPORT_")}
        self.environment = {
            **kept,
            "SHOP_DATABASE": str(folder / "shop.db"),
            "SHOP_QUEUE": self.queue,
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a Python program of the project."""
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        return ran

    def work(self, *options: str) -> None:
        """Run all jobs that are due."""
        self.run("manage.py", "queueport", "worker", "--burst", *options)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("options", [(), ("--processes=2",)], ids=["one process", "two processes"])
def test_the_tasks_of_django_run_unchanged(project: Project, options: Sequence[str]) -> None:
    ids = json.loads(project.run("try_tasks.py", "enqueue").stdout)
    found: dict[str, Any] = {}

    def retried() -> bool:
        project.work(*options)
        found.update(json.loads(project.run("try_tasks.py", "read", json.dumps(ids)).stdout))
        return bool(found["fail_once"][0] == "FAILED")

    eventually(retried, 50)
    assert found == {
        "add": ["SUCCESSFUL", 5, 1],
        "greet": ["SUCCESSFUL", ["ann", 1, "RUNNING"], 1],
        "fetch": ["SUCCESSFUL", {"number": 4}, 1],
        "fail": ["FAILED", ["ZeroDivisionError"], 1],
        "fail_once": ["FAILED", ["KeyError", "KeyError"], 2],
        "plain": ["SUCCESSFUL", "str", 1],
        "deferred": ["READY", [], 0],
        "count_orders": "TaskResultDoesNotExist",  # a task of queueport, not of Django
        "orders": 1,
        "late": ["SUCCESSFUL", 1, 1],
        "rolled_back": "TaskResultDoesNotExist",
    }


def test_with_the_setting_every_job_held_by_the_commit(project: Project) -> None:
    project.environment["SHOP_ON_COMMIT"] = "1"
    found = json.loads(project.run("try_transactions.py").stdout)
    assert found == {
        "in the transaction": ["count_orders.at_once", "add.inside", "add.at_once"],
        "after the commit": [
            "add.at_once",
            "add.by_default",
            "add.inside",
            "count_orders",
            "count_orders.at_once",
            "count_orders.many",
        ],
        "after a rollback": 0,
        "outside": True,
        "in a test": [0, 1],
    }


def test_a_wrong_choice_for_the_commit_is_refused(project: Project) -> None:
    project.environment["SHOP_ON_COMMIT"] = "sometimes"
    shown = project.run("manage.py", "check", code=1).stderr
    assert "ENQUEUE_ON_COMMIT in QUEUEPORT must be True or False, not 'sometimes'" in shown


def test_the_admin_lists_jobs_and_lets_those_with_permission_retry_and_discard_them(project: Project) -> None:
    assert json.loads(project.run("try_admin.py").stdout) == {
        "in the index": True,
        "jobs": [True, True, True],
        "dead letters": [False, True, True],
        "filtered": True,
        "filtered out": False,
        "escaped": True,
        "buttons of a viewer": False,
        "wrong filter": True,
        "codes": [404, 403, 403, 403, 302, 403],
        "untouched": "dead",
        "after": ["queued", "queued", "cancelled"],
        "refused": True,
        "store down": [200, True],
    }


def test_priorities_are_kept_or_refused_as_the_backend_can(project: Project) -> None:
    code = (
        "import django, os; os.environ['DJANGO_SETTINGS_MODULE'] = 'settings'; django.setup(); "
        "from shop.tasks import add; print(add.using(priority=50).enqueue(1).id)"
    )
    assert project.run("-c", code).stdout
    without = "from queueport.stores.driver import SqliteDriver; SqliteDriver.capabilities = frozenset(); "
    assert "Backend does not support setting priority of tasks" in project.run("-c", without + code, code=1).stderr


def test_a_wrong_queue_is_found_by_djangos_check(project: Project) -> None:
    project.environment["SHOP_QUEUE"] = "nosuch://x"
    shown = project.run("manage.py", "check", code=1).stderr
    assert "(queueport.E001) no backend for nosuch:// is installed" in shown


def test_the_command_shows_and_fails_as_queueport_does(project: Project) -> None:
    assert "there is no job 'nosuch'" in project.run("manage.py", "queueport", "status", "nosuch", code=1).stderr
    assert "Usage: queueport" in project.run("manage.py", "queueport", "--help").stdout
