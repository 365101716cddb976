"""What each provider is known to refuse does not reach it: sampling, identifiers, empty tools, foreign fields."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.types import HttpRequest
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each

EMAIL = "jane.doe@example.com"


def sent(provider: str, model: str = "m-upstream", *, drop: bool = False, **asked: Any) -> HttpRequest:
    entry = deployment(provider=provider, base_url="http://127.0.0.1:9/v1", drop_params=drop, model=model)
    messages = asked.pop("messages", ({"role": "user", "content": "hi"},))
    request = chat(messages=messages, params=asked, user=asked.get("user"))
    return ADAPTERS[provider].to_request(request, entry)


def body(provider: str, model: str = "m-upstream", *, drop: bool = False, **asked: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(sent(provider, model, drop=drop, **asked).body)
    return found


# --- Claude: temperature and top_p ---------------------------------------------------------------------------

ONE_OF_TWO = [
    "claude-opus-4-1",
    "claude-opus-4-1-20250805",
    "claude-sonnet-4-5",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5",
    "claude-opus-4-5",
    "claude-sonnet-4-6",
    "claude-opus-4.6",
]


@each("model", ONE_OF_TWO)
def test_claude_gets_temperature_or_top_p_but_not_both(model: str) -> None:
    for drop in (True, False):
        found = sent("anthropic", model, drop=drop, temperature=0.3, top_p=0.9)
        assert orjson.loads(found.body)["temperature"] == 0.3
        assert "top_p" not in orjson.loads(found.body)
        assert found.dropped == ("top_p",)


@each("model", ONE_OF_TWO)
def test_a_default_temperature_or_top_p_is_dropped_silently(model: str) -> None:
    warm = sent("anthropic", model, temperature=1, top_p=0.9)
    assert (orjson.loads(warm.body)["top_p"], warm.dropped) == (0.9, ())
    assert "temperature" not in orjson.loads(warm.body)
    wide = sent("anthropic", model, temperature=0.3, top_p=1)
    assert (orjson.loads(wide.body)["temperature"], wide.dropped) == (0.3, ())
    assert "top_p" not in orjson.loads(wide.body)


@pytest.mark.parametrize(
    "model", ["claude-3-5-sonnet-20241022", "claude-sonnet-4-20250514", "claude-opus-4-0"]
)
def test_older_claude_models_get_both(model: str) -> None:
    found = body("anthropic", model, temperature=0.3, top_p=0.9)
    assert (found["temperature"], found["top_p"]) == (0.3, 0.9)


# --- OpenAI's reasoning models -------------------------------------------------------------------------------

SAMPLING: dict[str, Any] = {
    "temperature": 0.2,
    "top_p": 0.5,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.3,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"1": 2},
}
NEVER = [
    "o1",
    "o1-2024-12-17",
    "o3",
    "o3-mini",
    "o4-mini",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-2025-08-07",
    "gpt-6-astra",
]


@each("provider", ["openai", "azure"])
@each("model", NEVER)
def test_parameters_refused_by_reasoning_models_are_dropped_and_reported(provider: str, model: str) -> None:
    found = sent(provider, model, drop=True, **SAMPLING, max_tokens=50)
    assert orjson.loads(found.body).keys() == {"model", "messages", "max_completion_tokens"}
    assert found.dropped == tuple(sorted(SAMPLING))


def test_without_drop_params_the_providers_error_is_returned() -> None:
    assert body("openai", "gpt-5", temperature=0.2)["temperature"] == 0.2


def test_default_values_are_not_sent_to_reasoning_models() -> None:
    found = sent("openai", "gpt-5", temperature=1, top_p=1, presence_penalty=0, logprobs=False)
    assert (orjson.loads(found.body).keys(), found.dropped) == ({"model", "messages"}, ())


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-4o", "gpt-5-chat-latest", "gpt-5.2-chat-latest", "my-gpt"])
def test_other_models_get_sampling_parameters_unchanged(model: str) -> None:
    found = sent("openai", model, drop=True, **SAMPLING)
    assert (orjson.loads(found.body).keys(), found.dropped) == ({"model", "messages", *SAMPLING}, ())


@pytest.mark.parametrize(
    ("model", "effort", "taken"),
    [
        ("gpt-5.1", None, True),
        ("gpt-5.4-mini", "none", True),
        ("gpt-5.1", "low", False),
        ("gpt-5.5", None, False),
        ("gpt-5.6", "none", True),
        ("gpt-6-sol", "none", True),
        ("gpt-6-sol", None, False),
    ],
)
def test_some_models_sample_only_without_reasoning(model: str, effort: str | None, taken: bool) -> None:
    reported = {} if effort is None else {"reasoning_effort": effort}
    found = sent("openai", model, drop=True, temperature=0.2, **reported)
    assert ("temperature" in orjson.loads(found.body)) is taken
    assert found.dropped == (() if taken else ("temperature",))


def test_base_model_determines_the_rules_for_azure() -> None:
    entry = deployment(provider="azure", model="prod", base_model="gpt-5", drop_params=True)
    found = ADAPTERS["azure"].to_request(chat(params={"temperature": 0.2}), entry)
    assert found.dropped == ("temperature",)


# --- end users -----------------------------------------------------------------------------------------------

PERSONAL = [
    EMAIL,
    "jane%40example.com",
    "mailto:jane@example.com",
    "+49 170 1234567",
    "(555) 123-4567",
    "x" * 300,
]
IMPERSONAL = [
    "u-1",
    "user-42",
    f"user_{'a' * 64}_account__session_123e4567-e89b-42d3-a456-426614174000",
    "123e4567-e89b-42d3-a456-426614174000",
]


@each("user", PERSONAL)
@each("field", ["user", "safety_identifier"])
def test_anthropic_gets_personal_or_long_identifiers_hashed(field: str, user: str) -> None:
    first = body("anthropic", **{field: user})["metadata"]["user_id"]
    assert user not in first
    assert "@" not in first
    assert len(first) == 64
    assert body("anthropic", **{field: user})["metadata"]["user_id"] == first


@pytest.mark.parametrize("user", IMPERSONAL)
def test_anthropic_gets_other_identifiers_unchanged(user: str) -> None:
    assert body("anthropic", user=user)["metadata"] == {"user_id": user}


@pytest.mark.parametrize("provider", ["openai", "azure"])
@pytest.mark.parametrize("field", ["user", "safety_identifier", "prompt_cache_key"])
def test_openai_gets_identifiers_of_at_most_64_characters(provider: str, field: str) -> None:
    assert body(provider, **{field: "x" * 64})[field] == "x" * 64
    first, second = (body(provider, **{field: "x" * 65 + end})[field] for end in "ab")
    assert len(first) == len(second) == 64
    assert first != second


# --- tools ---------------------------------------------------------------------------------------------------

PROVIDERS = sorted(ADAPTERS)
NONE_OFFERED: list[dict[str, Any]] = [
    {"tools": []},
    {"tools": [], "tool_choice": "auto"},
    {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
    {"tools": [], "tool_choice": "required", "parallel_tool_calls": False},
    {"tool_choice": "auto"},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"parallel_tool_calls": False},
    {"functions": []},
    {"functions": [], "function_call": "auto"},
    {"function_call": {"name": "f"}},
]


@each("asked", NONE_OFFERED)
@each("provider", PROVIDERS)
def test_empty_tools_are_not_sent(provider: str, asked: dict[str, Any]) -> None:
    found = sent(provider, **asked)
    words = {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
    assert not words & orjson.loads(found.body).keys()
    assert found.dropped == ()


# --- other vendors' fields -----------------------------------------------------------------------------------

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
    "extra_content": {"google": {"thought_signature": "c2ln"}},
}
MARK = {"type": "ephemeral"}
FOREIGN: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": MARK}]},
    {
        "role": "user",
        "content": [{"type": "text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit"}}],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "eA=="},
            {"type": "text", "text": "Calling."},
        ],
        "reasoning_content": "Hm.",
        "reasoning": "Hm.",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}],
        "annotations": [],
        "provider_specific_fields": {},
        "tool_calls": [CALL],
        "cache_control": MARK,
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "ok", "cache_control": MARK},
]
TOOL = {"type": "function", "function": {"name": "f", "cache_control": MARK}, "cache_control": MARK}
STRICT = ["groq", "cerebras", "mistral"]


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in _keys(inner)}
    return {key for inner in value for key in _keys(inner)} if isinstance(value, list) else set()


@each("provider", ["openai", "azure", "gemini", "bedrock", "huggingface", "perplexity", *STRICT])
def test_other_vendors_fields_are_removed_from_messages_and_tools(provider: str) -> None:
    drop = provider == "perplexity"  # takes no tools at all
    found = body(provider, drop=drop, messages=FOREIGN, tools=[TOOL], cache_control=MARK)
    others = {"cache_control", "reasoning_content", "thinking_blocks", "provider_specific_fields"}
    if provider in STRICT:
        others |= {"annotations", "extra_content"}
    if provider not in ("openai", "azure"):
        others |= {"prompt_cache_breakpoint"}
    assert not others & _keys(found)
    kinds = [part["type"] for part in found["messages"][2]["content"]]
    assert kinds == (["thinking", "redacted_thinking", "text"] if provider == "mistral" else ["text"])


@pytest.mark.parametrize("provider", ["openai", "cohere", "ai21", "groq"])
def test_a_message_with_only_thinking_keeps_its_tool_calls(provider: str) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    conversation = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [thought], "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
        {"role": "assistant", "content": [thought]},
        {"role": "user", "content": "and?"},
    ]
    found = body(provider, messages=conversation)["messages"]
    assert "thinking" not in _keys(found)
    assert found[1]["tool_calls"][0]["function"] == CALL["function"]
    assert not found[1].get("content")


@pytest.mark.parametrize("provider", ["cohere", "ai21", "replicate", "openai", "mistral"])
def test_a_top_level_cache_control_is_dropped_silently(provider: str) -> None:
    found = sent(provider, cache_control=MARK)
    assert "cache_control" not in _keys(orjson.loads(found.body))
    assert found.dropped == ()


def test_openai_compatible_gets_everything_unchanged() -> None:
    found = body("openai_compatible", messages=FOREIGN, tools=[TOOL])
    assert (found["messages"], found["tools"]) == (FOREIGN, [TOOL])


def test_openrouter_gets_cache_control() -> None:
    found = body("openrouter", messages=FOREIGN, tools=[TOOL])
    assert "cache_control" in _keys(found["messages"])
    assert "cache_control" in _keys(found["tools"])


def test_anthropic_gets_only_its_own_signed_thinking_blocks() -> None:
    found = body("anthropic", "claude-sonnet-4-5", messages=[
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "thinking", "thinking": [{"type": "text", "text": "another vendor's"}]},
            {"type": "reasoning", "text": "another vendor's"},
            {"type": "text", "text": "Yes."},
        ]},
        {"role": "user", "content": "and?"},
    ])  # fmt: skip
    assert found["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Yes."},
    ]


@pytest.mark.parametrize(
    "block", [{}, {"type": None}, {"type": "text"}, {"thinking": "x"}, {"type": ["thinking"]}]
)
def test_invalid_thinking_blocks_are_removed(block: dict[str, Any]) -> None:
    conversation = {"role": "assistant", "content": "Yes.", "thinking_blocks": [block]}
    found = body(
        "anthropic",
        messages=[{"role": "user", "content": "hi"}, conversation, {"role": "user", "content": "and?"}],
    )
    assert found["messages"][1] == {"role": "assistant", "content": "Yes."}


PARTS = st.sampled_from([
    {"type": "text", "text": "x"},
    {"type": "text", "text": "x", "cache_control": MARK},
    {"type": "thinking", "thinking": "x"},
    {"type": "thinking", "thinking": "x", "signature": 1},
    {"type": "thinking", "signature": "s", "thinking": None},
    {"type": "redacted_thinking", "data": 7},
    {"type": "reasoning"},
])  # fmt: skip


@given(content=st.lists(PARTS, max_size=4), provider=st.sampled_from(PROVIDERS), calls=st.booleans())
def test_arbitrary_thinking_blocks_cause_no_error(content: list[Any], provider: str, calls: bool) -> None:
    conversation: dict[str, Any] = {"role": "assistant", "content": content}
    if calls and provider != "replicate":
        conversation["tool_calls"] = [CALL]
    body(
        provider,
        messages=[{"role": "user", "content": "hi"}, conversation, {"role": "user", "content": "and?"}],
    )


# --- bookkeeping that is wanted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider", ["openai", "azure", "mistral", "fireworks", "openrouter", "openai_compatible"]
)
def test_prompt_cache_key_is_sent_to_providers_with_cache_discounts(provider: str) -> None:
    assert body(provider, prompt_cache_key="c-1")["prompt_cache_key"] == "c-1"


@each("provider", sorted(OPENAI_PROFILES.keys() - {
    "openai", "azure", "mistral", "fireworks", "openrouter", "openai_compatible",
}))  # fmt: skip
def test_prompt_cache_key_is_not_sent_to_other_providers(provider: str) -> None:
    assert "prompt_cache_key" not in body(provider, prompt_cache_key="c-1")
