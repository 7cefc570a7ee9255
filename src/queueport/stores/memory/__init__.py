"""The memory store: records in this process."""
