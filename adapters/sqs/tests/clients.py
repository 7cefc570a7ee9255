"""botocore's client of an emulated service, without queueport. For the tests of this adapter."""

from __future__ import annotations

from typing import Any

import botocore.session

__all__ = ["client"]


def client(url: str, service: str = "dynamodb") -> Any:
    """Make a client of `service` at the endpoint `url`."""
    make: Any = botocore.session.get_session().create_client  # Any: botocore's stubs need a literal service name
    return make(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
