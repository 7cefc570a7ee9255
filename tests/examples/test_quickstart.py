"""The quickstart gives the same results as `wc` and `sha256sum` for a folder with unusual names and contents."""

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
    b"latin-1 \xff\xfe name": b"the name is not UTF-8\n",
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
    """Lines, words and bytes of all files together."""
    counts = subprocess.run(["wc", "-lwc", "--", *paths], env=UTF8, capture_output=True, check=True).stdout
    return [int(number) for number in counts.splitlines()[-1].split()[:3]]


def sha256sum(path: Path) -> str:
    with path.open("rb") as file:
        printed = subprocess.run(["sha256sum"], stdin=file, capture_output=True, text=True, check=True).stdout
    return printed.split()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with unusual names and contents, and of entries that are not regular files."""
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


def test_the_totals_equal_those_of_wc(folder: Path, output: str) -> None:
    totals = wc(*(folder / os.fsdecode(name) for name in TEXTS))
    assert [*map(str, totals), "total", "of", str(len(TEXTS)), "files"] in map(str.split, output.splitlines())


def test_the_digests_equal_those_of_sha256sum(folder: Path, output: str) -> None:
    digests = {word for word in output.split() if len(word) == 64}
    largest = sorted((folder / os.fsdecode(name) for name in TEXTS), key=lambda path: -path.stat().st_size)[:10]
    assert digests == {sha256sum(path) for path in largest}


def test_skipped_entries_are_counted_by_kind(output: str) -> None:
    assert "14 files (skipped: 1 .git, 2 special files, 3 symbolic links)" in output


def test_jobs_fail_are_retried_become_dead_and_are_retried_by_hand(output: str) -> None:
    assert "attempt 1 failed: BusyError" in output
    assert "succeeded after 2 attempts" in output
    dead = [line.split()[:3] for line in output.splitlines() if "NotTextError" in line or "FileNotFoundError" in line]
    assert ["absent.txt", "3", "FileNotFoundError"] in dead
    assert {("damaged.txt", "NotTextError"), ("binary", "NotTextError")} <= {(name, error) for name, _, error in dead}
    assert "damaged.txt: succeeded after 2 attempts" in output
    assert ["default", "0", "0", "0", "0", "12", "4", "0"] in map(str.split, output.splitlines())


def test_control_characters_and_markup_in_names_are_printed_as_text(output: str) -> None:
    assert "with\\na newline\\tand 'quotes\".txt" in output
    assert "[red]markup[/red] :smile:" in output


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert ["0", "0", "0", "total", "of", "0", "files"] in map(str.split, done.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/at/all"], "cannot read the folder: [Errno 2] No such file or directory: '/nowhere/at/all'"),
        ([__file__], f"cannot read the folder: [Errno 20] Not a directory: '{__file__}'"),
        (["one", "two"], "unrecognized arguments: two"),
    ],
)
def test_arguments_that_are_not_one_folder_are_refused(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("name", sorted(TEXTS), ids=ascii)
def test_measure_agrees_with_wc_and_sha256sum(queue: JobQueue, folder: Path, name: bytes) -> None:
    path = folder / os.fsdecode(name)
    lines, words, size = wc(path)
    assert queue.enqueue(measure, path.as_uri()).result(timeout=10) == Measured(size, sha256sum(path), lines, words)


@pytest.mark.parametrize("name", sorted(BINARIES), ids=ascii)
def test_a_file_that_is_not_text_makes_its_job_dead_after_one_attempt(
    queue: JobQueue, folder: Path, name: bytes
) -> None:
    job = queue.enqueue(measure, (folder / os.fsdecode(name)).as_uri())
    with pytest.raises(JobFailed, match=NotTextError.__name__):
        job.result(timeout=10)
    assert job.status().attempts == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_counts_do_not_depend_on_the_size_of_the_blocks(size: int) -> None:
    for data in TEXTS.values():
        whole, parts = TextCount(), TextCount()
        whole.add(data[:5000])
        for start in range(0, len(data[:5000]), size):
            parts.add(data[:5000][start : start + size])
        assert (parts.lines, parts.words) == (whole.lines, whole.words)
