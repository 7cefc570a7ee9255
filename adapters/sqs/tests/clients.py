"""AWS's own client of an emulated service, behind queueport's back. For the tests of this adapter."""

from __future__ import annotations

from typing import Any

import botocore.session

__all__ = ["client"]


def client(url: str, service: str = "dynamodb") -> Any:
    """A client of the service at that endpoint."""
    make: Any = botocore.session.get_session().create_client  # of any service
    return make(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
