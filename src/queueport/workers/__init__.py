"""Runs jobs: in one process, in several processes, or in the worker process of a framework. For `JobQueue.worker`,
the commands and adapters.
"""
