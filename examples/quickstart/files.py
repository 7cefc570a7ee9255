"""The regular files of a folder in a stable order, whatever their names. For the quickstart."""

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

TOOLS_FOLDERS = (".git", ".hypothesis", ".nox", ".tox", ".venv*", ".*_cache", "__pycache__", "node_modules")
"""Folders that development tools create, and that are skipped."""


@dataclass(slots=True)
class Found:
    """The files to measure, and the number of skipped entries by kind."""

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def find(folder: Path) -> Found:
    """All regular files below `folder`. Symbolic links are not followed, so that no file is counted twice."""
    found = Found()
    for place, folders, names in os.walk(folder, onerror=lambda _: found.skipped.update(["unreadable folders"])):
        tools = [name for name in folders if any(fnmatch(name, pattern) for pattern in TOOLS_FOLDERS)]
        found.skipped.update(tools)
        folders[:] = sorted(set(folders).difference(tools))
        for name in sorted([*names, *(name for name in folders if Path(place, name).is_symlink())]):
            path = Path(place, name)
            kind = _kind(path)
            if kind is None:
                found.files.append(path)
            else:
                found.skipped[kind] += 1
    return found


def printable(name: str) -> str:
    """The name with control characters and undecodable bytes escaped, so that it fits on one line of any terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _kind(path: Path) -> str | None:
    """The kind of a folder's entry, in the plural; None for a regular file."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return "deleted files"
    if stat.S_ISREG(mode):
        return None
    return "symbolic links" if stat.S_ISLNK(mode) else "special files"
