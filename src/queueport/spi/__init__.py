"""The interfaces that adapters implement, and the data that passes through them. For authors of adapters.

Import `AsyncTransport` from here. The module that defines this class is loaded on first use, because it imports
asyncio, which is slow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queueport.spi.async_transport import AsyncTransport

__all__ = ["AsyncTransport"]


def __getattr__(name: str) -> Any:
    if name == "AsyncTransport":
        from queueport.spi.async_transport import AsyncTransport

        return AsyncTransport
    raise AttributeError(f"module 'queueport.spi' has no attribute {name!r}")
