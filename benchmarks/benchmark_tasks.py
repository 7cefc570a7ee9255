"""The task that the benchmarks run: as little work as possible, so that what is measured is queueport."""

from queueport import task


@task
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b
