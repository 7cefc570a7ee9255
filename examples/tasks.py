"""The tasks of all examples. Producers and workers import this module; each task can also be called as a function."""

import time
from pathlib import Path

from queueport import Retry, current_job, task

SOON = Retry(max_attempts=3, initial=0.1, factor=2.0)
"""Three attempts with delays of 0.1 s and 0.2 s. The default delays are 1 s and 2 s."""


@task
def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@task(retry=SOON)
def flaky(fails: int) -> str:
    """Fail in the first `fails` attempts, then succeed."""
    attempt = current_job().attempt
    if attempt <= fails:
        raise ConnectionError(f"no connection at attempt {attempt}")
    return f"succeeded at attempt {attempt}"


@task(retry=SOON)
def count_lines(path: str) -> int:
    """Count the lines of a file. If the file does not exist, the job is dead after three attempts."""
    return len(Path(path).read_text().splitlines())


@task(timeout=30.0)
def resize(photos: int) -> int:
    """Pretend to resize photos one by one, and report the progress."""
    for done in range(photos):
        current_job().progress(done, total=photos, message=f"photo {done + 1}")
        time.sleep(0.05)
    return photos
