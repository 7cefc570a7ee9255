"""`queueport contract`: the contract suite against any backend. For authors of adapters and the careful."""

from typing import Annotated

import typer

from queueport.errors import ConfigurationError

__all__ = ["contract"]


def contract(
    url: Annotated[str, typer.Argument(metavar="URL", help="The backend to prove; give it a server of its own.")],
) -> None:
    """Run the contract suite against a backend and print the report."""
    raise ConfigurationError("not yet")
