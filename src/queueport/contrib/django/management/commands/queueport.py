"""`manage.py queueport`: runs the command `queueport` after Django was set up."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.management.base import BaseCommand

__all__ = ["Command"]


class Command(BaseCommand):
    """The command `queueport` with the settings and tasks of this project."""

    help = "Run workers, inspect jobs and repair failures: the command `queueport`, with this project's tasks."

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Run the command `queueport` with these arguments. When the command has ended, raises SystemExit."""
        from queueport.cli.app import app

        app(args=list(argv[2:]))
