"""The tasks of all examples, in a module that producers and workers import. Each is a plain function as well."""

import time
from pathlib import Path

from queueport import Retry, current_job, task

SOON = Retry(max_attempts=3, initial=0.1, factor=2.0)
"""Three attempts, 0.1 s and 0.2 s apart; the default waits a second and two."""


@task
def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@task(retry=SOON)
def flaky(fails: int) -> str:
    """Fail so many times, and then succeed."""
    attempt = current_job().attempt
    if attempt <= fails:
        raise ConnectionError(f"attempt {attempt} found nobody at home")
    return f"succeeded at attempt {attempt}"


@task(retry=SOON)
def count_lines(path: str) -> int:
    """Count a file's lines; without the file, give up after three attempts."""
    return len(Path(path).read_text().splitlines())


@task(timeout=30.0)
def resize(photos: int) -> int:
    """Pretend to work on photo after photo, and say how far it is."""
    for done in range(photos):
        current_job().progress(done, total=photos, message=f"photo {done + 1}")
        time.sleep(0.05)
    return photos
