"""What each route does, who may call it, and what it takes. A test compares the table with the routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Access = Literal["open", "key", "virtual", "admin"]
"""Callers: all; keys and the administrator; virtual keys only; the administrator only."""


class Operation(NamedTuple):
    """One method of one path. `body`: the name of a schema; `query`: names of parameters."""

    tag: str
    summary: str
    access: Access = "admin"
    body: str | None = None
    query: tuple[str, ...] = ()
    answer: str = "Object"
    """The name of the schema of a 200; another media type instead where it contains a slash."""
    streams: bool = False
    """Whether `stream: true` is answered with server-sent events."""


_PAGE = ("page", "size")
_FILTERS = ("project", "key_id", "model", "user", "status", "session", "agent", "request_id", "start", "end")
_MODELS, _MESSAGES, _RESPONSES = "Models", "Anthropic Messages", "OpenAI Responses"
_KEYS, _LEDGER, _STATE, _SERVER = "Keys", "Requests and spend", "State", "Server"
_STORED = "Always 404: responses are not stored."

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/chat/completions"): Operation(
        _MODELS, "Complete a chat.", "virtual", "ChatCompletionRequest", streams=True
    ),
    ("POST", "/completions"): Operation(
        _MODELS,
        "Complete a text, also between a prefix and a suffix.",
        "virtual",
        "CompletionRequest",
        streams=True,
    ),
    ("POST", "/embeddings"): Operation(_MODELS, "Embed texts.", "virtual", "EmbeddingRequest"),
    ("GET", "/models"): Operation(
        _MODELS,
        "List the models that the key may use, in OpenAI's form, or Anthropic's with `anthropic-version`.",
        "key",
    ),
    ("GET", "/models/{id}"): Operation(_MODELS, "Show one model.", "key"),
    ("POST", "/messages"): Operation(
        _MESSAGES, "Create a message.", "virtual", "MessagesRequest", streams=True
    ),
    ("POST", "/messages/count_tokens"): Operation(
        _MESSAGES, "Count the input tokens of a message.", "virtual", "MessagesRequest"
    ),
    ("POST", "/responses"): Operation(
        _RESPONSES, "Create a response. It is not stored.", "virtual", "ResponsesRequest", streams=True
    ),
    ("POST", "/responses/input_tokens"): Operation(
        _RESPONSES, "Count the input tokens of a response.", "virtual", "ResponsesRequest"
    ),
    ("GET", "/responses"): Operation(_RESPONSES, "Always 426: WebSockets are not supported.", "open"),
    ("GET", "/responses/{response_id}"): Operation(_RESPONSES, _STORED, "key"),
    ("DELETE", "/responses/{response_id}"): Operation(_RESPONSES, _STORED, "key"),
    ("GET", "/responses/{response_id}/input_items"): Operation(_RESPONSES, _STORED, "key"),
    ("POST", "/responses/{response_id}/cancel"): Operation(_RESPONSES, _STORED, "key"),
    ("POST", "/responses/compact"): Operation(_RESPONSES, _STORED, "key"),
    ("POST", "/feedback"): Operation(_LEDGER, "Send a score for a tracked request.", "key", "Feedback"),
    ("GET", "/requests/{request_id}"): Operation(_LEDGER, "Show one request of the key's project.", "key"),
    ("GET", "/spend"): Operation(
        _LEDGER,
        "Sum up requests and their cost: of all projects for the administrator, of its own for a key.",
        "key",
        query=("group_by", *_FILTERS, *_PAGE),
    ),
    ("GET", "/spend/logs"): Operation(
        _LEDGER, "List requests, the newest first.", query=(*_FILTERS, *_PAGE, "before"), answer="Page"
    ),
    ("GET", "/key/info"): Operation(
        _KEYS,
        "Show a key: itself, or any to the administrator.",
        "key",
        query=("key_id", "key"),
        answer="Key",
    ),
    ("GET", "/key/list"): Operation(_KEYS, "List keys.", query=("project", *_PAGE), answer="Page"),
    ("POST", "/key/generate"): Operation(
        _KEYS, "Create a key. Only this response contains its secret.", body="KeyFields", answer="NewKey"
    ),
    ("POST", "/key/update"): Operation(
        _KEYS, "Change the given fields of a key; null unsets one.", body="KeyUpdate", answer="Key"
    ),
    ("POST", "/key/block"): Operation(_KEYS, "Refuse a key.", body="KeyReference", answer="Key"),
    ("POST", "/key/unblock"): Operation(
        _KEYS, "Accept a blocked key again.", body="KeyReference", answer="Key"
    ),
    ("POST", "/key/delete"): Operation(_KEYS, "Delete a key; its requests stay.", body="KeyReference"),
    ("POST", "/key/regenerate"): Operation(
        _KEYS, "Replace the secret of a key.", body="KeyRotation", answer="NewKey"
    ),
    ("GET", "/audit"): Operation(
        _KEYS,
        "List changes of keys, the newest first.",
        query=("project", "key_id", "action", "actor", "start", "end", *_PAGE),
        answer="Page",
    ),
    ("GET", "/health"): Operation(
        _STATE, "Show the state of every deployment and the configuration in force."
    ),
    ("GET", "/health/liveliness"): Operation(_STATE, "200 while the process serves.", "open"),
    ("GET", "/health/liveness"): Operation(_STATE, "The same as /health/liveliness.", "open"),
    ("GET", "/health/readiness"): Operation(_STATE, "200 while requests are served, else 503.", "open"),
    ("GET", "/metrics"): Operation(
        _STATE, "Metrics for Prometheus; open with `metrics.public: true`.", answer="text/plain"
    ),
    ("GET", "/api/hello"): Operation(_SERVER, "Answer clients that test their connection.", "open"),
    ("GET", "/"): Operation(
        _SERVER, "Name and version; a page about connecting for browsers.", "open", answer="Server"
    ),
    ("GET", "/welcome.css"): Operation(_SERVER, "The style of that page.", "open", answer="text/css"),
    ("GET", "/openapi.json"): Operation(_SERVER, "This description.", "open"),
}
"""By method and path, without the version."""
