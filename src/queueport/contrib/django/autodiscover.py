"""Imports the task modules of a Django project: it sets up Django and imports the module `tasks` of each installed app.

queueport's Django app sets the environment variable QUEUEPORT_TASKS to the name of this module, unless the variable is
set or the setting QUEUEPORT has TASKS. For the worker commands of Celery, RQ and Dramatiq, set QUEUEPORT_TASKS to the
name of this module, and set DJANGO_SETTINGS_MODULE.
"""

import django
from django.apps import apps
from django.utils.module_loading import autodiscover_modules

if not apps.ready:
    django.setup()
autodiscover_modules("tasks")
