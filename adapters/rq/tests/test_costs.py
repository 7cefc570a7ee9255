"""What a job costs on RQ."""

from __future__ import annotations

from tests.costs import check_one_round_trip, check_round_trips_to_run
from tests.servers import redis_server


def test_enqueueing_is_one_round_trip_for_a_job_and_for_a_hundred() -> None:
    check_one_round_trip(f"rq+{redis_server(private=True).url}")


def test_running_a_job_takes_few_round_trips() -> None:
    check_round_trips_to_run(f"rq+{redis_server(private=True).url}", 6.5, threads=1)
