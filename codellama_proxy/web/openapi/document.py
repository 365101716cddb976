"""The OpenAPI 3.1 document of the routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_proxy import __doc__ as description
from codellama_proxy import __version__
from codellama_proxy.core.errors import CODES
from codellama_proxy.web.openapi.operations import OPERATIONS, Operation
from codellama_proxy.web.openapi.schemas import QUERY, schemas
from codellama_proxy.web.paths import VERSION
from codellama_proxy.web.ui.routes import is_ui

Json = dict[str, Any]

_SCHEMES: Json = {
    "key": {"type": "http", "scheme": "bearer", "description": "A virtual key."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A virtual key."},
    "admin": {"type": "http", "scheme": "bearer", "description": "The master key, PROXY_MASTER_KEY."},
}
_SECURITY: Json = {
    "open": [],
    "virtual": [{"key": []}, {"x-api-key": []}],
    "key": [{"key": []}, {"x-api-key": []}, {"admin": []}],
    "admin": [{"admin": []}],
}
_NAMED = re.compile(r"\{(\w+)(?::\w+)?\}")


async def openapi(request: Request) -> Response:
    """`/openapi.json`."""
    shown = [route for route in request.app.routes if not is_ui(route.path)]
    routes = tuple((route.path, method) for route in shown for method in _methods(route))
    return Response(_encoded(routes), media_type="application/json")


@lru_cache(maxsize=1)
def _encoded(routes: tuple[tuple[str, str], ...]) -> bytes:
    return orjson.dumps(document(routes))


def _methods(route: Any) -> Iterable[str]:
    """The methods of a route; `HEAD` is that of each `GET`."""
    return sorted((route.methods or set()) - {"HEAD"}) if isinstance(route, Route) else ()


def document(routes: Iterable[tuple[str, str]]) -> Json:
    """The document for paths, as in a route, and methods. Raises `KeyError` for one without a description."""
    paths: dict[str, Json] = {}
    for path, method in routes:
        shown = _NAMED.sub(r"{\1}", path)
        operation = OPERATIONS[method, shown.removeprefix(VERSION)]
        paths.setdefault(shown, {})[method.lower()] = _operation(method, shown, operation)
    tags = dict.fromkeys(operation.tag for operation in OPERATIONS.values())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "codellama-proxy",
            "version": __version__,
            "description": description,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": _SCHEMES, "responses": _errors()},
    }


def _operation(method: str, path: str, operation: Operation) -> Json:
    found: Json = {
        "operationId": f"{method.lower()}{re.sub('[^a-z0-9]+', '_', path.lower()).rstrip('_')}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": _SECURITY[operation.access],
        "responses": {"200": _answer(operation), **_error_references(operation)},
    }
    parameters = [_path_parameter(name) for name in _NAMED.findall(path)]
    parameters += [{"name": name, "in": "query", **QUERY[name]} for name in operation.query]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": _reference("schemas", operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _answer(operation: Operation) -> Json:
    if "/" in operation.answer:
        return {"description": "Success.", "content": {operation.answer: {"schema": {"type": "string"}}}}
    content: Json = {"application/json": {"schema": _reference("schemas", operation.answer)}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "Success.", "content": content}


def _error_references(operation: Operation) -> Json:
    """The errors that callers of the operation may get."""
    absent: set[int] = set() if operation.access == "virtual" else {429, 502, 504}
    if operation.access != "admin":
        absent.add(403)
    if operation.access == "open":
        absent.add(401)
    if operation.body is None:
        absent |= {413, 415}
    statuses = {status for status, _, _ in CODES.values()} - absent
    return {str(status): _reference("responses", str(status)) for status in sorted(statuses)}


def _errors() -> Json:
    """A response for each status of the errors, with their codes."""
    codes: dict[int, list[str]] = {}
    for code, (status, _, _) in CODES.items():
        codes.setdefault(status, []).append(code)
    content = {"application/json": {"schema": _reference("schemas", "Error")}}
    return {
        str(status): {"description": f"Codes: {', '.join(names)}.", "content": content}
        for status, names in sorted(codes.items())
    }


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _reference(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}
