"""The benchmark: each library used directly and through queueport, in turn on the same servers. `nox -s bench`."""
