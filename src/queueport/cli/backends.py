"""`queueport backends`: what is installed here, what it can do, and how its URLs are written. For operators."""

from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import Any

from queueport import connect
from queueport.capability import Capability
from queueport.cli import output
from queueport.cli.connection import Json
from queueport.transport import Transport

__all__ = ["backends"]


def backends(as_json: Json = False) -> None:
    """List the installed backends and job stores, with their capabilities and URL options."""
    from queueport.settings import Settings

    kinds = {scheme: _loaded(entry) for scheme, entry in connect.stores().items()}
    drivers, stores = sorted(connect.backends().items()), sorted(connect.stores().items())
    found = {
        "backends": {scheme: _backend(entry, kinds.get(scheme)) for scheme, entry in drivers},
        "stores": {scheme: _described(entry, kinds[scheme]) for scheme, entry in stores},
        "options": _options(Settings),
    }
    if as_json:
        output.document(found)
        return
    for what in ("backends", "stores"):
        output.parts(_table(what, found[what]), "")
    options = [(name, option["default"], option["description"]) for name, option in found["options"].items()]
    output.parts(output.table(("option of every backend", "default", ""), options), "")
    missing = sorted({package for scheme, package in connect.INSTALLED_BY.items() if scheme not in found["backends"]})
    output.line(f"more: pip install {', '.join(missing)}")


def _loaded(entry: EntryPoint) -> Any:
    """The class behind an entry point, or what went wrong: a broken adapter is listed like the others."""
    try:
        return entry.load()
    except Exception as error:  # noqa: BLE001  # an adapter is somebody else's code
        return error


def _backend(entry: EntryPoint, store: Any) -> dict[str, Any]:
    kind = _loaded(entry)
    described = _described(entry, kind)
    if described["problem"] is None:
        threads = {Capability.THREADS} if issubclass(kind, Transport) else set()  # as TransportDriver adds it
        described["capabilities"] = sorted(kind.capabilities | threads)
        if not kind.carries and not described["options"]:  # the store is the queue, and its options are the URL's
            described["options"] = _options(store.settings)
    return described


def _described(entry: EntryPoint, kind: Any) -> dict[str, Any]:
    problem = f"{type(kind).__name__}: {kind}" if isinstance(kind, Exception) else None
    return {
        "package": None if entry.dist is None else f"{entry.dist.name} {entry.dist.version}",
        "options": {} if problem is not None else _options(kind.settings),
        "problem": problem,
    }


def _options(model: Any) -> dict[str, dict[str, Any]]:
    """The options of a settings model, by name."""
    if model is None:
        return {}
    return {
        name: {"default": field.get_default(), "description": field.description}
        for name, field in model.model_fields.items()
    }


def _table(what: str, found: dict[str, dict[str, Any]]) -> Any:
    rows: Iterable[tuple[object, ...]] = (
        (
            f"{scheme}://",
            one["package"],
            one["problem"] or ", ".join(one.get("capabilities", ())),
            ", ".join(f"{name}={option['default']}" for name, option in one["options"].items()),
        )
        for scheme, one in found.items()
    )
    return output.table((what, "package", "capabilities" if what == "backends" else "", "options"), rows)
