"""`queueport backends`: what is installed here, what it can do, and how its URLs are written. For operators."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from queueport import connect
from queueport.capability import Capability
from queueport.cli import output
from queueport.cli.connection import Json
from queueport.settings import Settings
from queueport.transport import Transport

__all__ = ["backends"]


def backends(as_json: Json = False) -> None:
    """List the installed backends and job stores, with their capabilities and URL options."""
    found = {
        "backends": {scheme: _backend(entry) for scheme, entry in sorted(connect.backends().items())},
        "stores": {scheme: _described(entry) for scheme, entry in sorted(connect.stores().items())},
        "options": _options(Settings),
    }
    if as_json:
        output.document(found)
    else:
        _print(found)


def _backend(entry: EntryPoint) -> dict[str, Any]:
    described = _described(entry)
    kind = described.pop("kind")
    return described
