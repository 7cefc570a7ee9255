"""Integrations with web frameworks. Each module imports its framework, so import only the module that you need."""
