"""The app that the page on Celery joins."""

from celery import Celery

app = Celery("shop", broker="redis://localhost:6379/0")
