"""The SQLite store: records in one file, for threads and processes of one machine."""
