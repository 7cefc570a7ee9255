"""Settings of Hypothesis for all tests of this repository."""

from hypothesis import HealthCheck, settings

# The time of an example depends on what else the machine does, so it must not decide about a test.
settings.register_profile("queueport", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("queueport")
