"""The quickstart is right about any folder: its totals are those of `wc` and `sha256sum`, whatever lies there."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport import JobQueue, get_queue
from queueport.errors import JobFailed
from quickstart.tasks import BLOCK, Measured, NotTextError, TextCount, measure

EXAMPLES = Path(__file__).parents[2] / "examples"
UTF8 = {**os.environ, "LC_ALL": "C.UTF-8"}

TEXTS = {
    b"empty.txt": b"",
    b"a line.txt": b"one two three\n",
    b"no newline at the end": b"one two three",
    b"blanks": b" \t\v\f\r one\t\ttwo\r\n\r\n  three \n",
    b"with\na newline\tand 'quotes\".txt": b"a\nb\n",
    b"[red]markup[/red] :smile:": b"x\n",
    b"caf\xc3\xa9.txt": "déjà vu — ✓ 日本語\u3000の文\u2003章 non\u00a0breaking\u2060words ─►│\n".encode(),
    b"latin-1 \xff\xfe name": b"name is no UTF-8\n",
    b"-n": b"a name like an option\n",
    b"folder/deep/er": b"deep\n" * 1000,
    b"folder/large": ("é" * 7 + " — ").encode() * (BLOCK // 10),
}
BINARIES = {b"binary": b"text, then\0", b"latin-1": b"caf\xe9\n", b"cut": "é".encode()[:1]}


def run(*arguments: str | bytes) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quickstart", *arguments]
    return subprocess.run(command, check=False, cwd=EXAMPLES, capture_output=True, text=True, timeout=50)


def write(folder: Path, files: dict[bytes, bytes]) -> None:
    for name, data in files.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def wc(*paths: Path) -> list[int]:
    """Lines, words and bytes, of all files together."""
    counts = subprocess.run(["wc", "-lwc", "--", *paths], env=UTF8, capture_output=True, check=True).stdout
    return [int(number) for number in counts.splitlines()[-1].split()[:3]]


def sha256sum(path: Path) -> str:
    with path.open("rb") as file:
        printed = subprocess.run(["sha256sum"], stdin=file, capture_output=True, text=True, check=True).stdout
    return printed.split()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with all kinds of names and contents, and what is no file at all."""
    folder = tmp_path_factory.mktemp("any folder")
    write(folder, {**TEXTS, **BINARIES, b".git/config": b"[core]\n"})
    (folder / "link").symlink_to("blanks")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket"))
    return folder


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    done = run(str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://", namespace="quickstart") as queue, queue.worker(tasks=[measure], threads=2):
        yield queue


def test_its_totals_are_those_of_wc(folder: Path, output: str) -> None:
    totals = wc(*(folder / os.fsdecode(name) for name in TEXTS))
    assert [*map(str, totals), "total", "of", str(len(TEXTS)), "files"] in map(str.split, output.splitlines())


def test_its_digests_are_those_of_sha256sum(folder: Path, output: str) -> None:
    digests = {word for word in output.split() if len(word) == 64}
    largest = sorted((folder / os.fsdecode(name) for name in TEXTS), key=lambda path: -path.stat().st_size)[:10]
    assert digests == {sha256sum(path) for path in largest}


def test_it_counts_what_is_no_regular_file_apart(output: str) -> None:
    assert "14 files (skipped: 1 .git, 2 special files, 3 symbolic links)" in output


def test_jobs_are_retried_with_backoff_die_come_back_and_are_counted(output: str) -> None:
    assert "attempt 1 failed: BusyError" in output
    assert "succeeded after 2 attempts" in output
    dead = [line.split()[:3] for line in output.splitlines() if "NotTextError" in line or "FileNotFoundError" in line]
    assert ["absent.txt", "3", "FileNotFoundError"] in dead
    assert {("damaged.txt", "NotTextError"), ("binary", "NotTextError")} <= {(name, error) for name, _, error in dead}
    assert "damaged.txt: succeeded after 2 attempts" in output
    assert ["default", "0", "0", "0", "0", "12", "4", "0"] in map(str.split, output.splitlines())


def test_names_cannot_disturb_the_terminal(output: str) -> None:
    assert "with\\na newline\\tand 'quotes\".txt" in output
    assert "[red]markup[/red] :smile:" in output


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert ["0", "0", "0", "total", "of", "0", "files"] in map(str.split, done.stdout.splitlines())


@pytest.mark.parametrize("arguments", [["/nowhere/at/all"], [__file__], ["one", "two"]])
def test_what_is_no_folder_is_refused_in_one_sentence(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(TEXTS), ids=ascii)
def test_one_file_is_measured_as_wc_and_sha256sum_do(queue: JobQueue, folder: Path, name: bytes) -> None:
    path = folder / os.fsdecode(name)
    lines, words, size = wc(path)
    assert queue.enqueue(measure, path.as_uri()).result(timeout=10) == Measured(size, sha256sum(path), lines, words)


@pytest.mark.parametrize("name", sorted(BINARIES), ids=ascii)
def test_what_is_not_text_dies_at_once(queue: JobQueue, folder: Path, name: bytes) -> None:
    job = queue.enqueue(measure, (folder / os.fsdecode(name)).as_uri())
    with pytest.raises(JobFailed, match=NotTextError.__name__):
        job.result(timeout=10)
    assert job.status().attempts == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_words_are_counted_alike_in_blocks_of_any_size(size: int) -> None:
    for data in TEXTS.values():
        whole, parts = TextCount(), TextCount()
        whole.add(data[:5000])
        for start in range(0, len(data[:5000]), size):
            parts.add(data[:5000][start : start + size])
        assert (parts.lines, parts.words) == (whole.lines, whole.words)
