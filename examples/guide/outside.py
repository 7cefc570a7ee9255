"""The systems outside of the queue: uploads, mails, users and a record of results. Here they are files in GUIDE_FOLDER.

In an application, these are an object store, a mail service and tables of a database.
"""

import json
import os
from pathlib import Path
from typing import Any


def folder() -> Path:
    """The folder of all files."""
    return Path(os.environ["GUIDE_FOLDER"])


def read_upload(file_id: str) -> bytes:
    """The content of an uploaded file. While there is a file FILE_ID.busy, the storage fails once, and removes it.

    Raises ConnectionError, and FileNotFoundError for an unknown file.
    """
    busy = folder() / f"{file_id}.busy"
    if busy.exists():
        busy.unlink()
        raise ConnectionError("the storage is busy")
    return (folder() / file_id).read_bytes()


def recorded_result(file_id: str) -> dict[str, str] | None:
    """The result that an earlier attempt or job has recorded for a file."""
    path = folder() / f"{file_id}.result"
    return json.loads(path.read_text()) if path.exists() else None


def record_result(file_id: str, result: dict[str, str]) -> None:
    """Record the result of a file, in one atomic step."""
    new = folder() / f"{file_id}.new"
    new.write_text(json.dumps(result))
    new.rename(folder() / f"{file_id}.result")


def append(kind: str, entry: dict[str, Any]) -> int:
    """Append an entry, such as a user or a mail, to the file of its kind. Returns the number of entries."""
    with (folder() / f"{kind}.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    return len(entries(kind))


def entries(kind: str) -> list[Any]:
    """All entries of a kind."""
    path = folder() / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
