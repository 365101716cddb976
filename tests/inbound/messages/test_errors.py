"""Errors, heartbeats and headers in Anthropic's form."""

from typing import Any

import orjson

from codellama_proxy.core.errors import CODES, ProxyError
from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.limits.rates import Rate
from tests.inbound.messages.claude_code import parsed
from tests.support.cases import each


def body(error: ProxyError) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(MESSAGES.error_body(error, "req_1"))
    assert (found["type"], found["request_id"]) == ("error", "req_1")
    return found["error"]  # type: ignore[no-any-return]  # JSON


@each(
    ("code", "kind"),
    [
        ("invalid_json", "invalid_request_error"),
        ("unsupported_media_type", "invalid_request_error"),
        ("invalid_api_key", "authentication_error"),
        ("admin_required", "permission_error"),
        ("model_not_found", "not_found_error"),
        ("request_too_large", "request_too_large"),
        ("rate_limit_exceeded", "rate_limit_error"),
        ("insufficient_quota", "rate_limit_error"),
        ("internal_error", "api_error"),
        ("upstream_error", "api_error"),
        ("overloaded", "overloaded_error"),
        ("upstream_timeout", "timeout_error"),
    ],
)
def test_types(code: str, kind: str) -> None:
    found = body(ProxyError(code, "No."))
    assert found == {"type": kind, "message": "No.", "details": {"error_code": code}}


def test_every_code_has_a_type_of_anthropics() -> None:
    kinds = {body(ProxyError(code, "No."))["type"] for code in CODES}
    assert kinds == {
        *("invalid_request_error", "authentication_error", "permission_error", "not_found_error"),
        *("request_too_large", "rate_limit_error", "api_error", "overloaded_error", "timeout_error"),
    }


def test_a_full_context_window_is_said_as_claude_code_expects_it() -> None:
    found = body(ProxyError("context_length_exceeded", "This model has 8192 tokens."))
    assert found["message"] == "prompt is too long: This model has 8192 tokens."
    same = body(ProxyError("context_length_exceeded", "prompt is too long: 9 tokens > 8 maximum"))
    assert same["message"] == "prompt is too long: 9 tokens > 8 maximum"


def test_details_name_the_parameter_and_the_attempts() -> None:
    found = body(ProxyError("upstream_error", "No.", param="tools", attempts=[{"deployment": "m#1"}]))
    details = {"error_code": "upstream_error", "param": "tools", "attempts": [{"deployment": "m#1"}]}
    assert found["details"] == details


@each(
    ("code", "kind"),
    [
        ("overloaded", "overloaded_error"),
        ("upstream_rate_limited", "overloaded_error"),
        ("upstream_error", "api_error"),
    ],
)
def test_a_failure_in_a_stream_is_an_error_event(code: str, kind: str) -> None:
    event = MESSAGES.encoder(parsed(stream=True), None).broken(ProxyError(code, "No."))
    name, data = event.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    assert orjson.loads(data.removeprefix(b"data: "))["error"]["type"] == kind


def test_the_heartbeat_is_a_ping_event() -> None:
    assert MESSAGES.heartbeat == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_response_headers() -> None:
    assert MESSAGES.headers is not None
    assert MESSAGES.headers("req_1", None, None, 0.0) == "request-id: req_1\r\n"
    found = HeaderLines(MESSAGES.headers("req_1", Rate(60, 59, 1.5), None, 1_795_340_000.0))
    assert dict(found) == {
        "request-id": "req_1",
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-11-22T09:33:22Z",
    }
