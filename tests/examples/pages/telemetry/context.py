"""What the page on telemetry assumes: a client of StatsD."""

from unittest.mock import MagicMock

statsd = MagicMock()
