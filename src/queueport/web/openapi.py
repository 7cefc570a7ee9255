"""The OpenAPI document of the endpoints. For `/openapi.json` of the ASGI app."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

import queueport
from queueport.job import JOB_ID
from queueport.web.answers import ErrorAnswer
from queueport.web.endpoints import JSON, Endpoint, Endpoints

__all__ = ["document"]


def document(endpoints: Endpoints) -> dict[str, Any]:
    """The OpenAPI document of the included endpoints."""
    included = endpoints.included
    models: set[type[Any]] = {each.model for each in included.values() if each.model is not None} | {ErrorAnswer}
    schemas: dict[str, Any] = {}
    for model in sorted(models, key=lambda model: model.__name__):
        schema = TypeAdapter[Any](model).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
    return {
        "openapi": "3.1.0",
        "info": {"title": "queueport", "version": queueport.__version__, "description": "The jobs of one queue."},
        "paths": {endpoint.path: {"get": _operation(name, endpoint)} for name, endpoint in included.items()},
        "components": {"schemas": schemas},
    }


def _operation(name: str, endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {} if endpoint.model is None else {"schema": _reference(endpoint.model)}
    responses = {"200": {"description": endpoint.summary, "content": {endpoint.media_type: content}}}
    for code, meaning in endpoint.errors.items():
        model = endpoint.error_model(code)
        body = {} if model is None else {"content": {JSON: {"schema": _reference(model)}}}
        responses[str(code)] = {"description": meaning, **body}
    identity = {"name": "job_id", "in": "path", "required": True}
    identity["schema"] = {"type": "string", "pattern": f"^{JOB_ID.pattern}$"}
    parameters = [identity] if "{job_id}" in endpoint.path else []
    return {"operationId": name, "summary": endpoint.summary, "parameters": parameters, "responses": responses}


def _reference(model: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
