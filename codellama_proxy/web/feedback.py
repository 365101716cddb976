"""POST /feedback: a score for a response, sent to the tracking service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.fields import invalid_type, invalid_value
from codellama_proxy.tracking.promptlayer import record as promptlayer
from codellama_proxy.web.auth import caller
from codellama_proxy.web.http import json_object, respond
from codellama_proxy.web.state import runtime_of

FIELDS = ("request_id", "score", "name", "metadata")
MAX_NAME_CHARS = 256


async def feedback(request: Request) -> Response:
    """Accepts a score from a key of the request's project or the administrator; 404 for others."""
    who = await caller(request)
    given = _checked(await json_object(request))
    runtime = runtime_of(request)
    request_id = given["request_id"]
    row = await runtime.store.reports.request(request_id)
    if row is None or not (who.admin or (who.key is not None and who.key.project == row["project"])):
        raise _not_found(f"There is no request {request_id[:100]!r}.")
    if not await runtime.store.outbox.knows(request_id):
        raise _not_found(f"The request {request_id[:100]!r} is not tracked.")
    score = promptlayer.score(given["score"], given.get("name"))
    await runtime.store.outbox.add("score", request_id, score)
    if given.get("metadata"):
        await runtime.store.outbox.add("metadata", request_id, promptlayer.metadata(given["metadata"]))
    return respond({"request_id": request_id, "score": given["score"], "status": "accepted"})


def _not_found(message: str) -> ProxyError:
    return ProxyError("not_found", message, param="request_id")


def _checked(body: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            raise ProxyError("unsupported_parameter", f"There is no field '{name[:100]}'.", param=name[:100])
    for name in ("request_id", "score"):
        if name not in given:
            raise ProxyError("missing_required_parameter", f"'{name}' is required.", param=name)
    for name in ("request_id", "name"):
        if not isinstance(given.get(name, ""), str):
            raise invalid_type(name, "string")
    if not isinstance(given.get("metadata", {}), dict):
        raise invalid_type("metadata", "object")
    if type(given["score"]) is not int:  # a bool is not a score
        raise invalid_type("score", "integer")
    if not 0 <= given["score"] <= 100:
        raise invalid_value("score", "'score' must be from 0 to 100.")
    if len(given.get("name", "")) > MAX_NAME_CHARS:
        raise invalid_value("name", f"'name' may have at most {MAX_NAME_CHARS} characters.")
    return given
