"""A small application and its tests, which run in memory and on every backend; see docs/testing.md."""
