"""Two models without tables, which give the admin its pages and Django its permissions. No row is ever read."""

from __future__ import annotations

from django.db import models

__all__ = ["DeadLetter", "Job"]


class Job(models.Model):
    """The jobs of the project's queue."""

    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=64)

    class Meta:
        """No table, and permissions for the actions of the admin."""

        managed = False
        default_permissions = ("view",)
        permissions = (("retry_job", "Can retry job"), ("discard_job", "Can discard job"))


class DeadLetter(Job):
    """The dead jobs of the project's queue."""

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]  # Django reads each Meta by itself
        """A proxy of `Job` without a table: the admin shows it as a second page, which has its own permission."""

        proxy = True
        default_permissions = ("view",)
        verbose_name = "dead letter"
