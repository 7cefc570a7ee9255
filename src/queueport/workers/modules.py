"""Imports task modules by name, and explains why an import failed. For commands, native workers and adapters."""

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from queueport.errors import ConfigurationError, message_of
from queueport.spi.url import BackendURL

__all__ = ["TASKS_ENV", "environment", "existing", "load", "load_object", "working_directory"]

TASKS_ENV = "QUEUEPORT_TASKS"
"""The environment variable that contains the names of task modules, separated by commas."""
LIBRARIES = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parent.parent)]
"""The folders of Python's library, of installed packages and of queueport. If code in one of them raises an error while
a module is imported, the text of the ConfigurationError names the application's line that called this code.
"""


def environment(variable: str = TASKS_ENV) -> list[str]:
    """The names, separated by commas, in an environment variable; by default, the task modules in QUEUEPORT_TASKS."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def working_directory() -> str | None:
    """The path of the working directory; None if it was deleted."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def existing(folder: str | None) -> str | None:
    """Return `folder` if it exists; otherwise None, so that a new process starts in the present working directory."""
    return folder if folder is not None and Path(folder).is_dir() else None


def load(names: Sequence[str]) -> None:
    """Import these modules, also from the working directory, which is added to `sys.path`.

    Raises ConfigurationError for the first module that cannot be imported, and says why.
    """
    here = working_directory()
    if here is not None and here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        parts = name.split(".")
        if not all(part.isidentifier() for part in parts) or parts[-1] == "py":
            raise ConfigurationError(
                f"{name!r} is not a valid module name: write it as in `import`, such as {_suggestion(name)}"
            )
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
            raise ConfigurationError(_reason(name, error)) from error


def load_object(url: BackendURL, kind: str) -> Any:
    """Import the object that a URL `SCHEME://package.module:name` names. `kind` says in errors what the object is.

    Raises ConfigurationError if the URL, the module or the name is wrong, or if the module cannot be imported.
    """
    module, _, name = url.text.partition("://")[2].partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ConfigurationError(f"{url} does not name the {kind}: write {url.scheme}://package.module:{kind}")
    load([module])
    found: Any = sys.modules[module]
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"{url}: module {module!r} has no {name!r}: name its {kind}") from None
    return found


def _suggestion(name: str) -> str:
    """The module name that the user probably meant by a path or by `module:function`; if there is none, an example."""
    parts = name.partition(":")[0].removesuffix(".py").strip("./").replace("/", ".").split(".")
    return ".".join(parts) if all(part.isidentifier() for part in parts) else "app.tasks"


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        parent = "" if error.name == name else f", because there is no {error.name!r}"
        return f"there is no module {name!r}{parent}: change to its folder, or add the folder to PYTHONPATH"
    if isinstance(error, SystemExit):
        silent = error.code is None or isinstance(error.code, int)
        kind = "it called exit()" if silent else f"it called exit(): {message_of(error)}"
    else:
        kind = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    return f"module {name!r} cannot be imported: {kind} ({_place(error)})"


def _place(error: BaseException) -> str:
    """The file and line of the application that raised the error, or that called the library that raised the error.

    For a SyntaxError, the place of the wrong code. Without a line of the application, the last line of a library.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if not f.filename.startswith(str(Path(__file__).parent))]
    own = [f for f in frames if not any(f.filename.startswith(folder) for folder in LIBRARIES)]
    last = (own or frames)[-1:]
    return ", ".join(f"{frame.filename}:{frame.lineno}" for frame in last) or "its line is unknown"
