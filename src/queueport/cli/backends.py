"""`queueport backends`: the installed backends and stores, their capabilities and URL options. For operators."""

from typing import TYPE_CHECKING, Any

from queueport import connect
from queueport.cli import output
from queueport.cli.options import Json
from queueport.spi.driver import Driver
from queueport.spi.store import JobStore

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def backends(as_json: Json = False) -> None:
    """List the installed backends and job stores, with their capabilities and URL options."""
    from queueport.spi.settings import Settings

    drivers, stores = sorted(connect.backends().items()), sorted(connect.stores().items())
    described = {scheme: _describe(entry, JobStore) for scheme, entry in stores}
    found = {
        "backends": {scheme: _describe(entry, Driver, described.get(scheme)) for scheme, entry in drivers},
        "stores": described,
        "options": _options(Settings),
    }
    if as_json:
        output.print_json(found)
        return
    for kind in ("backends", "stores"):
        output.print_parts(_table(kind, found[kind]), "")
    options = [(name, option["default"], option["description"]) for name, option in found["options"].items()]
    output.print_parts(output.table(("option of every backend", "default", ""), options), "")
    usable = [
        scheme
        for kind in ("backends", "stores")
        for scheme, described in found[kind].items()
        if not (described["problem"] or "").startswith(("ImportError", "ModuleNotFoundError"))
    ]
    packages = connect.INSTALLED_BY | connect.STORES_INSTALLED_BY
    installed = {packages.get(scheme) or packages.get(scheme.partition("+")[0]) for scheme in usable}
    for package in sorted({*packages.values()} - installed):
        output.print_line(f"not installed: pip install {package}")


def _describe(entry: "EntryPoint", expected: type, store: dict[str, Any] | None = None) -> dict[str, Any]:
    """The package and options of an adapter, and a backend's capabilities.

    If the adapter cannot be loaded, its package and the reason.

    `store` describes the store with the same scheme as the backend. A backend whose store is the queue has the options
    of this store, if the store can be loaded.
    """
    package = None if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    try:
        loaded = entry.load()
        if not (isinstance(loaded, type) and issubclass(loaded, expected)):
            raise TypeError(f"{entry.value} is not a subclass of {expected.__name__}")
    except Exception as error:  # noqa: BLE001  # importing third-party code can raise anything
        return {"package": package, "options": {}, "problem": f"{type(error).__name__}: {error}"}
    adapter: Any = loaded
    found: dict[str, Any] = {"package": package, "options": _options(adapter.settings), "problem": None}
    if expected is Driver:
        found["capabilities"] = sorted(adapter.capabilities)
        if not adapter.carries:
            found["options"] = {} if store is None else store["options"]
    return found


def _options(model: Any) -> dict[str, dict[str, Any]]:
    """The options in a settings model, by name."""
    found = {}
    for name, field in ({} if model is None else model.model_fields).items():
        default = None if field.is_required() else field.get_default()
        plain = default if default is None or isinstance(default, str | int | float) else str(default)
        found[name] = {"default": plain, "required": field.is_required(), "description": field.description}
    return found


def _table(kind: str, found: dict[str, dict[str, Any]]) -> Any:
    rows = [
        (
            f"{scheme}://",
            described["package"],
            described["problem"] or ", ".join(described.get("capabilities", ())),
            ", ".join(f"{name}={option['default']}" for name, option in described["options"].items()),
        )
        for scheme, described in found.items()
    ]
    return output.table((kind, "package", "capabilities" if kind == "backends" else "", "options"), rows)
