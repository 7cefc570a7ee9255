"""The backends built in: those whose store is the queue."""
