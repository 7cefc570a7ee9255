"""`queueport backends`: what is installed here, what it can do, and how its URLs are written. For operators."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from queueport import connect
from queueport.capability import Capability
from queueport.cli import output
from queueport.cli.connection import Json
from queueport.driver import Driver
from queueport.store import JobStore
from queueport.transport import Transport

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["backends"]


def backends(as_json: Json = False) -> None:
    """List the installed backends and job stores, with their capabilities and URL options."""
    from queueport.settings import Settings

    kinds = {scheme: _loaded(entry, JobStore) for scheme, entry in connect.stores().items()}
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
    installed = {scheme.partition("+")[0] for scheme in (*found["backends"], *found["stores"])}
    packages = connect.INSTALLED_BY | connect.STORES_INSTALLED_BY
    for package in sorted({package for scheme, package in packages.items() if scheme not in installed}):
        output.line(f"not installed: pip install {package}")


def _loaded(entry: "EntryPoint", *kinds: type) -> Any:
    """The class behind an entry point, or what went wrong: a broken adapter is listed like the others."""
    try:
        loaded = entry.load()
    except Exception as error:  # noqa: BLE001  # an adapter is somebody else's code
        return error
    fits = isinstance(loaded, type) and issubclass(loaded, kinds)
    return loaded if fits else TypeError(f"{entry.value} is no {' or '.join(kind.__name__ for kind in kinds)}")


def _backend(entry: "EntryPoint", store: Any) -> dict[str, Any]:
    kind = _loaded(entry, Driver, Transport)
    described = _described(entry, kind)
    if described["problem"] is None:
        transport = issubclass(kind, Transport)
        described["capabilities"] = sorted(kind.capabilities | ({Capability.THREADS} if transport else set()))
        if not transport and not kind.carries:  # the store is the queue, and its options are the URL's
            described["options"] = _options(getattr(store, "settings", None))
    return described


def _described(entry: "EntryPoint", kind: Any) -> dict[str, Any]:
    failed = isinstance(kind, Exception)
    return {
        "package": None if entry.dist is None else f"{entry.dist.name} {entry.dist.version}",
        "options": {} if failed else _options(kind.settings),
        "problem": f"{type(kind).__name__}: {kind}" if failed else None,
    }


def _options(model: Any) -> dict[str, dict[str, Any]]:
    """The options of a settings model, by name."""
    if model is None:
        return {}
    return {
        name: {
            "default": None if field.is_required() else _plain(field.get_default()),
            "required": field.is_required(),
            "description": field.description,
        }
        for name, field in model.model_fields.items()
    }


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else str(value)


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
