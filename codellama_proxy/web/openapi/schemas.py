"""Schemas of bodies and query parameters, from the tables that validate them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy import __version__
from codellama_proxy.core.errors import CODES
from codellama_proxy.openai_format.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    EMBEDDING_PARAMETERS,
    Parameter,
)
from codellama_proxy.store import key_fields
from codellama_proxy.store.audit import ACTIONS
from codellama_proxy.store.reports import GROUPS, MAX_ROWS, STATUSES

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_COUNT: Json = {"type": ["integer", "null"], "minimum": 0, "maximum": key_fields.MAX_COUNT}
_DURATION: Json = {"type": ["string", "null"], "examples": ["30s", "10m", "1h", "30d"]}
_NAMES: Json = {"type": ["array", "null"], "items": _STRING, "maxItems": key_fields.MAX_MODELS}
_KEY_FIELDS: Json = {
    "key_alias": {**_STRING, "description": "The project of the key."},
    "name": {"type": ["string", "null"], "maxLength": 128},
    "duration": {**_DURATION, "description": "The lifetime from now on."},
    "models": {**_NAMES, "description": "Names and shell wildcards."},
    "max_budget": {"type": ["number", "null"], "minimum": 0, "description": "USD per window."},
    "budget_duration": {"type": ["string", "null"], "examples": ["day", "month", "24h"]},
    "rpm_limit": {**_COUNT, "description": "Requests per minute."},
    "tpm_limit": {**_COUNT, "description": "Tokens per minute."},
    "max_parallel_requests": _COUNT,
    "metadata": {"type": ["object", "null"]},
}
_REFERENCE: Json = {
    "key_id": {**_STRING, "description": "Either this or `key`."},
    "key": {**_STRING, "description": "The secret."},
}
_MOMENT = "An ISO date or time, UTC unless it has an offset, or Unix seconds."

QUERY: Mapping[str, Json] = {
    **{name: {"schema": _STRING} for name in ("project", "key_id", "model", "user", "session", "agent")},
    **{name: {"schema": _STRING} for name in ("request_id", "actor")},
    "key": {"schema": _STRING, "description": "The secret of a key."},
    "status": {"schema": {"enum": list(STATUSES)}},
    "action": {"schema": {"enum": list(ACTIONS)}},
    "start": {"schema": _STRING, "description": _MOMENT},
    "end": {"schema": _STRING, "description": f"{_MOMENT} A date includes its day."},
    "group_by": {"schema": _STRING, "description": f"Any of {', '.join(GROUPS)}, separated by commas."},
    "page": {"schema": {"type": "integer", "minimum": 1}},
    "size": {"schema": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS}},
    "before": {"schema": _STRING, "description": "Rows before this request_id, instead of `page`."},
}
"""Query parameters by name."""


def schemas() -> Json:
    """The schemas of the document, by name."""
    key: Json = {
        "type": "object",
        "properties": {
            **dict.fromkeys(("key_id", "project", "prefix", "created_at"), _STRING),
            "expires": {"type": ["string", "null"]},
            "blocked": {"type": "boolean"},
            **{name: field for name, field in _KEY_FIELDS.items() if name != "duration"},
        },
    }
    return {
        "Object": {"type": "object"},
        "Error": _error(),
        "Server": _object({"name": _STRING, "version": {"const": __version__}, "docs": _STRING}),
        "Page": {
            "type": "object",
            "properties": {
                "data": {"type": "array", "items": {"type": "object"}},
                **{name: {"type": "integer"} for name in ("page", "size", "total")},
            },
        },
        "Key": key,
        "NewKey": {
            **key,
            "properties": {"key": {**_STRING, "description": "The secret."}, **key["properties"]},
        },
        "KeyFields": {"type": "object", "properties": _KEY_FIELDS, "additionalProperties": False},
        "KeyReference": {"type": "object", "properties": _REFERENCE, "additionalProperties": False},
        "KeyUpdate": {
            "type": "object",
            "properties": {**_REFERENCE, **_KEY_FIELDS},
            "additionalProperties": False,
        },
        "KeyRotation": {
            "type": "object",
            "properties": {
                **_REFERENCE,
                "overlap": {**_DURATION, "description": "How long the old secret still works."},
            },
            "additionalProperties": False,
        },
        "Feedback": {
            **_object({"request_id": _STRING, "score": {"type": "integer", "minimum": 0, "maximum": 100}}),
            "description": "Optional: `name`, and a flat object `metadata`.",
        },
        "ChatCompletionRequest": _request(CHAT_PARAMETERS, "Either `messages` or `prompt` is required."),
        "CompletionRequest": {**_request(COMPLETION_PARAMETERS), "required": ["prompt"]},
        "EmbeddingRequest": {**_request(EMBEDDING_PARAMETERS), "required": ["input"]},
        "MessagesRequest": {
            "type": "object",
            "properties": {
                "model": _STRING,
                "messages": {"type": "array"},
                "max_tokens": {"type": "integer", "minimum": 1},
                "stream": {"type": "boolean"},
            },
            "required": ["messages"],
            "description": "The request of Anthropic's Messages API.",
        },
        "ResponsesRequest": {
            "type": "object",
            "properties": {
                "model": _STRING,
                "input": {"type": ["string", "array"]},
                "instructions": {"type": ["string", "null"]},
                "stream": {"type": ["boolean", "null"]},
            },
            "description": "The request of OpenAI's Responses API.",
        },
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _request(parameters: Mapping[str, Parameter], description: str = "") -> Json:
    found: Json = {"type": "object", "properties": {name: _field(row) for name, row in parameters.items()}}
    return {**found, "description": description} if description else found


def _field(parameter: Parameter) -> Json:
    field: Json = {"type": [*parameter.kind.split(" or "), "null"]}
    if parameter.range is not None:
        field["minimum"], field["maximum"] = parameter.range
    if parameter.max_items is not None:
        field["maxItems"] = parameter.max_items
    if parameter.default is not None:
        field["default"] = parameter.default
    return field


def _error() -> Json:
    properties: Json = {
        "message": _STRING,
        "type": {"enum": sorted({kind for _, kind, _ in CODES.values()} | {"tokens"})},
        "param": {"type": ["string", "null"]},
        "code": {"enum": list(CODES)},
        "attempts": {"type": "array", "items": {"type": "object"}},
    }
    error = {"type": "object", "properties": properties, "required": ["message", "type", "param", "code"]}
    return _object({"error": error})
