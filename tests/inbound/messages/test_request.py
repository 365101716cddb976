"""The fields of a Messages request: what they become, what is left out and reported, what is refused."""

from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.messages.user import user_of
from tests.inbound.messages.claude_code import HEADERS, TURN, parsed
from tests.support.cases import each

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def refusal(**fields: Any) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        parsed(**fields)
    assert caught.value.status == 400
    return caught.value


def test_a_turn_of_claude_code_is_understood() -> None:
    request = parsed(TURN, HEADERS)
    assert request.model == "claude-opus-5-5"
    assert request.stream
    assert request.include_usage
    assert request.user == "a1"
    assert request.max_tokens == 128_000
    assert request.params["reasoning_effort"] == "high"  # the last system message decides
    assert request.dialect == "messages"
    assert request.endpoint == "chat/completions"
    assert request.ignored == ()


def test_the_native_request_is_the_body_and_the_headers_of_the_dialect() -> None:
    request = parsed(TURN, HEADERS)
    assert request.native is not None
    assert request.native.body == TURN
    assert set(request.native.headers) == {"anthropic-version", "anthropic-beta", "x-claude-code-session-id"}


@each(
    ("fields", "name", "value"),
    [
        ({"temperature": 0.5}, "temperature", 0.5),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"top_k": 5}, "top_k", 5),
        ({"stop_sequences": ["a", "b"]}, "stop", ["a", "b"]),
        ({"cache_control": {"type": "ephemeral"}}, "cache_control", {"type": "ephemeral"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "reasoning_effort", "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "reasoning_effort", "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "reasoning_effort", "high"),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            "reasoning_effort",
            "max",
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA, "strict": True}},
        ),
        (
            {"output_format": {"type": "json_schema", "schema": SCHEMA}},
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA, "strict": True}},
        ),
    ],
)
def test_fields_become_parameters(fields: dict[str, Any], name: str, value: Any) -> None:
    request = parsed(**fields)
    assert request.params[name] == value
    assert request.ignored == ()


@each(
    "fields",
    [
        {},
        {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
        {"output_config": {"effort": "high"}},
        {"thinking": {"type": "adaptive"}},
    ],
)
def test_no_effort_is_sent_without_thinking_or_without_an_effort(fields: dict[str, Any]) -> None:
    assert "reasoning_effort" not in parsed(**fields).params


@each(
    ("fields", "names"),
    [
        ({"a_new_field": 1}, ("a_new_field",)),
        ({"speed": "fast"}, ("speed",)),
        ({"inference_geo": "us"}, ("inference_geo",)),
        ({"service_tier": "priority"}, ("service_tier",)),
        ({"service_tier": "auto"}, ()),
        ({"context_management": {"edits": []}}, ()),
        ({"stop_sequences": list("abcdef")}, ("stop_sequences",)),
        (
            {"output_config": {"effort": "huge", "task_budget": 1}},
            ("output_config.effort", "output_config.task_budget"),
        ),
        ({"output_config": {"format": {"type": "grammar"}}}, ("output_config.format",)),
        ({"thinking": {"type": "telepathic"}}, ("thinking",)),
        ({"metadata": {"team": "x"}}, ("metadata.team",)),
        ({"evil\r\nx-header: é": 1}, ("evil??x-header???",)),
        ({"mcp_servers": [], "container": None}, ()),
    ],
)
def test_what_is_unknown_is_reported_and_not_refused(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    assert parsed(**fields).ignored == names


def test_few_and_short_names_are_reported() -> None:
    ignored = parsed(
        **{f"{'x' * 100}{at}": 1 for at in range(10)}, **{f"y{at}": 1 for at in range(100)}
    ).ignored
    assert len(ignored) == 32
    assert max(map(len, ignored)) == 64


@each(
    ("fields", "code", "param"),
    [
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"messages": "hi"}, "invalid_type", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "invalid_value", "messages"),
        ({"messages": ["hi"]}, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "invalid_type", "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "invalid_type", "messages[0].content[0]"),
        ({"system": 1}, "invalid_type", "system"),
        ({"stream": "yes"}, "invalid_type", "stream"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": "many"}, "invalid_type", "max_tokens"),
        ({"top_k": 1.5}, "invalid_type", "top_k"),
        ({"stop_sequences": [1]}, "invalid_type", "stop_sequences"),
        ({"thinking": True}, "invalid_type", "thinking"),
        ({"metadata": {"user_id": 1}}, "invalid_type", "metadata.user_id"),
        ({"fallbacks": ["x"]}, "unsupported_parameter", "fallbacks"),
        ({"mcp_servers": [{"url": "https://a.example"}]}, "unsupported_parameter", "mcp_servers"),
        ({"container": "c_1"}, "unsupported_parameter", "container"),
        ({"workspace_id": "w_1"}, "unsupported_parameter", "workspace_id"),
        ({"user_profile_id": "u_1"}, "unsupported_parameter", "user_profile_id"),
        ({"billing_policy": "x"}, "unsupported_parameter", "billing_policy"),
        ({"thread": "t_1"}, "unsupported_parameter", "thread"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.param) == (code, param)


@each(
    ("user_id", "user"),
    [
        ('{"device_id":"d1","account_uuid":"a1","session_id":"s1"}', "a1"),
        ('{"device_id":"d1","account_uuid":"","session_id":"s1"}', "d1"),
        ('{"session_id":"s1"}', None),
        ("user_U_account_A_session_S", "user_U_account_A"),
        ("_session_S", None),
        ("jane", "jane"),
        ("", None),
        ("[1]", "[1]"),
    ],
)
def test_the_user_is_an_account_or_a_device_and_never_a_session(user_id: str, user: str | None) -> None:
    assert user_of(user_id) == user
