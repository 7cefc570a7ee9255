"""Task modules, imported by their names, and what is wrong with one that cannot be. For commands and native workers."""

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import queueport
from queueport.errors import ConfigurationError
from queueport.url import BackendURL

__all__ = ["VARIABLE", "environment", "load", "named"]

VARIABLE = "QUEUEPORT_TASKS"
"""Names modules, comma-separated, where the command line names none."""
NOT_MINE = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(queueport.__file__).parent)]
"""Where libraries are: an error raised in one of them is shown at the line of the module that called it."""


def environment() -> list[str]:
    """The modules that the environment names."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def load(names: Sequence[str]) -> None:
    """Import these modules, from the working directory too. Raises ConfigurationError, naming module and reason."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        words = name.split(".")
        if not all(word.isidentifier() for word in words) or words[-1] == "py":
            raise ConfigurationError(f"{name!r} is no module: write its name as in `import`, such as {_guess(name)}")
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever a module raises while it is imported is its own
            raise ConfigurationError(_reason(name, error)) from error


def named(url: BackendURL, kind: str) -> Any:
    """The object that `SCHEME://package.module:name` names, which is to be a `kind`. Raises ConfigurationError."""
    module, _, name = url.text.partition("://")[2].partition(":")
    if not all(word.isidentifier() for word in (*module.split("."), *name.split("."))):
        raise ConfigurationError(f"{url} names no {kind}: write {url.scheme}://package.module:{kind}")
    load([module])
    found: Any = sys.modules[module]
    for word in name.split("."):
        try:
            found = getattr(found, word)
        except AttributeError:
            raise ConfigurationError(f"{url}: there is no {name!r} in module {module!r}") from None
    return found


def _guess(name: str) -> str:
    """What somebody may have meant who wrote a path, or a module and what is in it."""
    words = name.partition(":")[0].removesuffix(".py").strip("./").replace("/", ".").split(".")
    return ".".join(words) if all(word.isidentifier() for word in words) else "app.tasks"


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        parent = "" if error.name == name else f", for there is no {error.name!r}"
        return f"there is no module {name!r}{parent}: go to the folder it is in, or add that to PYTHONPATH"
    kind = "it ended the process" if isinstance(error, SystemExit) else f"{type(error).__name__}: {_message(error)}"
    return f"module {name!r} cannot be imported: {kind} ({_place(error)})"


def _message(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)


def _place(error: BaseException) -> str:
    """The line of the user's own code that failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if not f.filename.startswith(str(Path(__file__).parent))]
    own = [f for f in frames if not any(f.filename.startswith(place) for place in NOT_MINE)]
    last = (own or frames)[-1:]
    return ", ".join(f"{frame.filename}:{frame.lineno}" for frame in last) or "no line is known"
