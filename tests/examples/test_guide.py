"""The guide's programs with real HTTP: a server and a worker as processes, on three backends and two frameworks."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from queueport.testing.process import WorkerProcess
from queueport.testing.servers import free_port
from queueport.testing.waiting import eventually
from tests.examples.backends import environment_of

EXAMPLES = Path(__file__).parents[2] / "examples"
SPIKARD_PORT = 8000
"""Spikard 0.17 ignores the port in its configuration."""


class Site:
    """The web server, its worker, and the folder with the files of the guide."""

    def __init__(self, client: httpx2.Client, folder: Path) -> None:
        self.client, self.folder = client, folder

    def get(self, path: str, code: int = 200) -> Any:
        return self._body(self.client.get(path), code)

    def post(self, path: str, code: int = 200, **body: str) -> Any:
        return self._body(self.client.post(path, json=body), code)

    def _body(self, answer: httpx2.Response, code: int) -> Any:
        assert answer.status_code == code, answer.text
        return answer.json()

    def ended(self, job_id: str) -> Any:
        """Wait until a job has ended. Returns its status as the site shows it."""
        final = ("succeeded", "dead")
        eventually(lambda: self.get(f"/jobs/{job_id}/status")["state"] in final, 20)
        return self.get(f"/jobs/{job_id}/status")


@contextmanager
def port_of(framework: str) -> Iterator[int]:
    """A free port. Spikard has only one, so that tests in other processes wait. Skips if another program has it."""
    if framework != "spikard":
        yield free_port()
        return
    with Path(tempfile.gettempdir(), "queueport-spikard.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", SPIKARD_PORT)) == 0:
                pytest.skip(f"another program has port {SPIKARD_PORT}, the only one of Spikard")
        yield SPIKARD_PORT


@pytest.fixture
def site(framework: str, backend: str, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "guide"
    folder.mkdir()
    with environment_of(backend, tmp_path, "mailers", "upload-processing") as variables, port_of(framework) as port:
        environment = {**os.environ, **variables, "GUIDE_FOLDER": str(folder), "PYTHONPATH": str(EXAMPLES)}
        server = ["guide.spikard_app"]
        if framework == "fastapi":
            server = ["uvicorn", "guide.fastapi_app:app", f"--port={port}"]
        commands = [["queueport", "worker", "guide.tasks", "--threads=4"], server]
        processes = [
            WorkerProcess([sys.executable, "-m", *command], environment, tmp_path / f"{command[0]}.log")
            for command in commands
        ]
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                eventually(lambda: answers(client), 30, lambda: "".join(process.log for process in processes))
                yield Site(client, folder)
        finally:
            for process in processes:
                process.clean()


def answers(client: httpx2.Client) -> bool:
    """True if the server answers and the worker is alive."""
    try:
        return bool(client.get("/health/jobs").json()["workers"])
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize(
    ("framework", "backend"),
    [
        ("fastapi", "sqlite"),
        ("fastapi", "rabbitmq + redis"),
        ("fastapi", "celery + redis"),
        ("spikard", "sqlite"),
    ],
)
def test_the_guide_works_over_http(site: Site, framework: str) -> None:
    an_upload_is_processed_once_although_the_storage_fails_once(site)
    a_missing_file_is_a_dead_job_whose_data_are_kept(site)
    signing_up_returns_the_user_and_sends_a_mail(site)
    an_unknown_job_and_a_wrong_body_are_refused(site)
    the_counts_of_jobs_and_queues_are_shown(site)
    if framework == "fastapi":
        the_metrics_and_the_events_are_those_of_the_backend(site)


def an_upload_is_processed_once_although_the_storage_fails_once(site: Site) -> None:
    (site.folder / "cat").write_bytes(b"meow")
    (site.folder / "cat.busy").touch()
    first = site.post("/upload", file_id="cat")
    assert first == {"status": "processing", "task_id": first["task_id"]}
    assert site.post("/upload", file_id="cat") == first  # the retry waits for two seconds, so the job is alive
    shown = site.ended(first["task_id"])
    assert shown["state"] == "succeeded"
    assert shown["result"] == {"status": "completed", "file_id": "cat", "bytes": "4"}
    assert shown["progress"]["current"] == 100
    assert shown["finished_at"] is not None
    assert (shown["args"], shown["error"]) == (["cat"], None)
    again = site.post("/upload", file_id="cat")
    assert again["task_id"] != first["task_id"]
    assert site.ended(again["task_id"])["result"] == shown["result"]


def a_missing_file_is_a_dead_job_whose_data_are_kept(site: Site) -> None:
    shown = site.ended(site.post("/upload", file_id="dog")["task_id"])
    assert shown["state"] == "dead"
    assert "No such file" in shown["error"]["message"]
    assert "read_upload" in shown["error"]["traceback"]
    dead = site.folder / "dead.jsonl"
    eventually(lambda: dead.exists() and '"args": ["dog"]' in dead.read_text(), 10)


def signing_up_returns_the_user_and_sends_a_mail(site: Site) -> None:
    assert site.post("/signup", email="ann@example.org", name="Ann") == {
        "id": 1,
        "email": "ann@example.org",
        "name": "Ann",
    }
    sent = '"to": 1, "template": "welcome", "params": {"name": "Ann"}'
    mails, visits = site.folder / "mails.jsonl", site.folder / "visits.jsonl"
    eventually(lambda: visits.exists() and mails.exists() and sent in mails.read_text(), 20)


def an_unknown_job_and_a_wrong_body_are_refused(site: Site) -> None:
    assert "there is no job 'unknown'" in site.get("/jobs/unknown/status", 404)["error"]
    assert site.client.post("/upload", json={}).status_code == 422


def the_counts_of_jobs_and_queues_are_shown(site: Site) -> None:
    eventually(lambda: site.get("/health/jobs")["processed"] == 5, 20)
    shown = site.get("/health/jobs")
    counts = {name: shown[name] for name in ("active", "scheduled", "retrying", "dead", "failed", "workers")}
    assert counts == {"active": 0, "scheduled": 0, "retrying": 0, "dead": 1, "failed": 2, "workers": 1}
    uploads = shown["queues"]["upload-processing"]
    assert (uploads["succeeded"], uploads["dead"], uploads["size"], uploads["latency"]) == (2, 1, 0, 0.0)


def the_metrics_and_the_events_are_those_of_the_backend(site: Site) -> None:
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(site.client.get("/metrics").text)
        for sample in family.samples
    }
    assert found["queueport_jobs", "upload-processing", "dead"] == 1
    assert found["queueport_jobs_processed_total",] == 5
    assert found["queueport_queue_workers", "mailers"] == found["queueport_workers",] == 1
    assert site.get("/readyz") == {"ready": True, "problems": []}
    (site.folder / "cow").write_bytes(b"moo")
    job_id = site.post("/upload", file_id="cow")["task_id"]
    with site.client.stream("GET", f"/jobs/{job_id}/events") as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert '"state": "succeeded"' in lines[-1]
