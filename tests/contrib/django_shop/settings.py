"""The settings of the project: SQLite for its data, and the queue that SHOP_QUEUE names."""

import importlib.util
import os

SECRET_KEY = "for tests"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_DATABASE"]}}
INSTALLED_APPS = ["queueport.contrib.django", "shop"]
if importlib.util.find_spec("django.tasks") is None:
    INSTALLED_APPS.append("django_tasks")
QUEUEPORT = {"URL": os.environ["SHOP_QUEUE"], "STORE": os.environ.get("SHOP_STORE")}
if chosen := os.environ.get("SHOP_ON_COMMIT"):
    QUEUEPORT["ENQUEUE_ON_COMMIT"] = True if chosen == "1" else chosen
TASKS = {
    "default": {"BACKEND": "queueport.contrib.django.TasksBackend", "QUEUES": ["default", "mail"]},
    "retrying": {"BACKEND": "queueport.contrib.django.TasksBackend", "OPTIONS": {"max_attempts": 2}},
    "committing": {"BACKEND": "queueport.contrib.django.TasksBackend", "OPTIONS": {"enqueue_on_commit": True}},
    "at_once": {"BACKEND": "queueport.contrib.django.TasksBackend", "OPTIONS": {"enqueue_on_commit": False}},
}
