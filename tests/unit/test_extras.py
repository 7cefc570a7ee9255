"""What an import says if the packages of an extra are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from queueport.errors import NeedsExtra

MODULES = [
    ("queueport.web.asgi", "starlette", "web"),
    ("queueport.web.dashboard", "starlette", "web"),
    ("queueport.web.dashboard.access", "starlette", "web"),
    ("queueport.web.dashboard", "jinja2", "web"),
    ("queueport.web.metrics", "prometheus_client", "metrics"),
    ("queueport.contrib.fastapi", "fastapi", "fastapi"),
    ("queueport.contrib.fastapi", "starlette", "fastapi"),
    ("queueport.contrib.flask", "flask", "flask"),
    ("queueport.contrib.opentelemetry", "opentelemetry", "otel"),
    ("queueport.contrib.django", "django", "django"),
    ("queueport.contrib.django.urls", "django", "django"),
    ("queueport.testing.stores", "pytest", "testing"),
    ("queueport.testing.machine", "hypothesis", "testing"),
]
PROGRAM = """
import importlib, importlib.abc, sys

missing = sys.argv[2]

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(module: str, missing: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter without a package."""
    command = [sys.executable, "-c", PROGRAM + program, module, missing]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(("module", "missing", "extra"), MODULES)
def test_an_import_without_a_package_names_the_extra_to_install(module: str, missing: str, extra: str) -> None:
    ended = run(module, missing, "importlib.import_module(sys.argv[1])")
    package = "queueport.web.dashboard" if module.startswith("queueport.web.dashboard") else module
    package = "queueport.contrib.django" if module.startswith("queueport.contrib.django") else package
    last = ended.stderr.strip().splitlines()[-1]
    assert last == f"ModuleNotFoundError: {package} needs the package {missing}: run `pip install 'queueport[{extra}]'`"


@pytest.mark.parametrize("name", ["Contract", "Harness"])
def test_the_contract_suite_names_its_extra_too(name: str) -> None:
    ended = run("queueport.testing", "pytest", f"importlib.import_module(sys.argv[1]).{name}")
    assert f"queueport.testing.{name} needs the package pytest: run `pip install 'queueport[testing]'`" in ended.stderr


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "jinja2"])
def test_the_command_web_says_it_in_one_line(missing: str) -> None:
    program = "from queueport.cli import main; sys.argv[1:] = ['web', '--url', 'memory://', '--port', '0']; main()"
    ended = run("", missing, program)
    line = f"error: the dashboard needs the package {missing}: run `pip install 'queueport[web]'`\n"
    assert (ended.returncode, ended.stderr) == (2, line)


def test_other_errors_stay_as_they_are() -> None:
    for error in (ImportError("broken"), ModuleNotFoundError("x", name="queueport.nosuch"), ModuleNotFoundError("x")):
        with pytest.raises(ImportError) as raised, NeedsExtra("web", "this"):
            raise error
        assert raised.value is error
