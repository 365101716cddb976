"""Requests of other dialects at every provider: side fields are removed, hints are dropped rather than refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common.output_limits import narrowed_max_tokens
from codellama_proxy.providers.openai.efforts import nearest_effort
from codellama_proxy.providers.registry import ADAPTERS
from tests.inbound.messages.claude_code import (
    EPHEMERAL,
    SEARCH,
    SYSTEM,
    image,
    parsed,
    pdf,
    result,
    text,
    tool,
    use,
)
from tests.support.builders import chat, deployment
from tests.support.cases import each

PROVIDERS = sorted(ADAPTERS)
MARKED = {"anthropic", "openrouter", "openai_compatible"}
"""Providers that accept cache marks."""
NO_TOOLS = {"perplexity", "replicate"}
WITH_FILES = [name for name in PROVIDERS if name not in ("ai21", "cohere", *NO_TOOLS)]
LATE_SYSTEM = ["openai", "azure", "deepseek", "openrouter", "xai"]
TURNS: list[Any] = [
    {"role": "user", "content": [text("Look."), text("Please.", **EPHEMERAL)]},
    {"role": "system", "content": "Be brief."},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "signed", "signature": "EqQB"},
            {"type": "redacted_thinking", "data": "EmwK"},
            {"type": "thinking", "thinking": "ours", "signature": "clp1.0123"},
            text("I look."),
            {**use("c1", "f", a=1), **EPHEMERAL},
        ],
    },
    {"role": "user", "content": [result("c1", "no such file", is_error=True, **EPHEMERAL), text("Go on.")]},
]


def sent(request: InferenceRequest, provider: str, **entry: Any) -> HttpRequest:
    to = deployment(provider=provider, base_url="https://a.example/v1", **entry)
    return ADAPTERS[provider].to_request(request, to)


def sent_messages(provider: str, *turns: Any) -> Any:
    return orjson.loads(sent(parsed(messages=turns), provider).body)["messages"]


# --- side fields ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name not in NO_TOOLS])
def test_fields_of_single_providers_reach_no_other(provider: str) -> None:
    request = parsed(messages=TURNS, system=SYSTEM, tools=[tool("f", **EPHEMERAL)])
    body = sent(request, provider).body
    assert b"clp1." not in body
    assert b"billing" not in body
    assert (b"EqQB" in body) is (b"EmwK" in body) is (provider == "anthropic")
    assert (b"is_error" in body) is (provider == "anthropic")
    assert b"thinking_blocks" not in body
    assert (b"cache_control" in body) is (provider in MARKED)
    if provider != "anthropic":
        [answer] = [m for m in orjson.loads(body)["messages"] if m["role"] == "tool"]
        assert answer["content"] == "Error: no such file"
        assert not answer.keys() & {"cache_control", "is_error"}


def test_marks_of_calls_and_results_reach_anthropic() -> None:
    found = orjson.loads(sent(parsed(messages=TURNS), "anthropic").body)["messages"]
    assert found[1]["content"][-1]["cache_control"] == EPHEMERAL["cache_control"]
    assert found[2]["content"][0]["cache_control"] == EPHEMERAL["cache_control"]
    assert found[2]["content"][0]["is_error"] is True


@pytest.mark.parametrize("provider", PROVIDERS)
def test_side_fields_in_chats_reach_only_providers_that_know_them(provider: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **EPHEMERAL}
    tools = (
        ()
        if provider == "replicate"
        else (
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "no", "is_error": True},
        )
    )
    turns = [
        {"role": "user", "content": [text("hi", **EPHEMERAL)]},
        {
            "role": "assistant",
            "content": "a",
            "thinking_blocks": [{"type": "redacted_thinking", "data": "EmwK"}],
        },
        *tools,
        {"role": "user", "content": "go on"},
    ]
    body = sent(chat(messages=turns), provider).body
    assert (b"cache_control" in body) is (provider in MARKED)
    assert (b"EmwK" in body) is (provider in ("anthropic", "openai_compatible"))
    assert (b"is_error" in body) is (provider in ("anthropic", "openai_compatible"))


@each("signature", ["", None, "clp1.0123"])
def test_thinking_that_claude_did_not_sign_does_not_reach_anthropic(signature: Any) -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": signature}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "thinking_blocks": [block, None, "x"]},
        {"role": "user", "content": "c"},
    ]
    assert b"hm" not in sent(chat(messages=turns), "anthropic").body


def test_reasoning_goes_back_only_where_it_is_wanted() -> None:
    assert b"ours" in sent(parsed(messages=TURNS), "deepseek").body
    assert b"ours" not in sent(parsed(messages=TURNS), "openai").body


# --- messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", LATE_SYSTEM)
def test_late_system_messages_stay(provider: str) -> None:
    assert [m["role"] for m in sent_messages(provider, *TURNS)][:2] == ["user", "system"]


@pytest.mark.parametrize(
    "provider", ["vllm", "mistral", "huggingface", "openai_compatible", "cohere", "ai21"]
)
def test_late_system_messages_are_reminders_where_they_must_come_first(provider: str) -> None:
    first, second, *_ = sent_messages(provider, *TURNS)
    assert second["role"] == "assistant"
    assert "<system-reminder>\nBe brief.\n</system-reminder>" in str(
        orjson.dumps(first["content"]), "utf-8"
    ).replace("\\n", "\n")


def test_texts_are_joined_for_providers_of_plain_chats() -> None:
    turns = [
        {"role": "user", "content": [text("a"), text("b", **EPHEMERAL)]},
        {"role": "assistant", "content": [text("c"), text("d")]},
        {"role": "user", "content": [text("e"), image()]},
    ]
    first, second, third = sent_messages("openai", *turns)
    assert (first["content"], second["content"]) == ("a\n\nb", "cd")
    assert [part["type"] for part in third["content"]] == ["text", "image_url"]
    [marked, *_] = sent_messages("openrouter", *turns)
    assert marked["content"] == [text("a"), text("b", **EPHEMERAL)]


@pytest.mark.parametrize("provider", [name for name in WITH_FILES if name != "anthropic"])
def test_attachments_of_results_follow_the_last_result(provider: str) -> None:
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use("c1", "f"), use("c2", "f")]},
        {
            "role": "user",
            "content": [result("c1", [text("A picture:"), image()]), result("c2", [pdf()]), text("And?")],
        },
    ]
    *_, first, second, last = sent_messages(provider, *turns)
    assert (first["role"], first["content"]) == ("tool", "A picture:")
    assert (second["role"], second["content"]) == ("tool", "(see the attachment in the next message)")
    assert [part["type"] for part in last["content"]] == ["text", "image_url", "text", "file", "text"]
    assert last["content"][0]["text"] == "Attachment of tool result c1:"


def test_results_stay_whole_for_anthropic() -> None:
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use("c1", "f")]},
        {"role": "user", "content": [result("c1", [text("A picture:"), image(), pdf(title="m.pdf")])]},
    ]
    found = sent_messages("anthropic", *turns)[-1]["content"][0]
    assert [block["type"] for block in found["content"]] == ["text", "image", "document"]


@each(("content", "words"), [("", "(no output)"), ([], "(no output)"), ([text("a"), text("b")], "a\nb")])
def test_results_as_text(content: Any, words: str) -> None:
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [use("c1", "f")]},
        {"role": "user", "content": [result("c1", content)]},
    ]
    assert sent_messages("openai", *turns)[-1]["content"] == words


def test_linked_documents_are_documents_for_anthropic_and_words_elsewhere() -> None:
    linked = {
        "type": "document",
        "title": "m.pdf",
        "source": {"type": "url", "url": "https://a.example/m.pdf"},
    }
    turn = {"role": "user", "content": [linked]}
    assert sent_messages("openai", turn)[0]["content"] == "Document m.pdf: https://a.example/m.pdf"
    [block] = sent_messages("anthropic", turn)[0]["content"]
    assert block["source"] == {"type": "url", "url": "https://a.example/m.pdf"}


# --- parameters ----------------------------------------------------------------------------------------------

HINTS: dict[str, Any] = {
    "thinking": {"type": "enabled", "budget_tokens": 32_000},
    "output_config": {"effort": "max"},
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "metadata": {"user_id": "jane"},
    "max_tokens": 8000,
    "a_new_field": 1,
}
CLAUDES = ["claude-3-5-haiku", "claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-5-5", "claude-haiku-5"]


@pytest.mark.parametrize("provider", PROVIDERS)
@each("model", ["m", "gpt-4.1", "gpt-5", "o3", "openai/gpt-oss-120b", *CLAUDES])
def test_hints_are_never_refused_and_what_was_left_out_is_reported(provider: str, model: str) -> None:
    tools = [] if provider in NO_TOOLS else [tool("f")]
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    found = sent(parsed(**HINTS, tools=tools, tool_choice=choice), provider, model=model)
    assert "a_new_field" in found.dropped
    assert b"a_new_field" not in found.body


def test_hints_of_chats_are_refused_as_before() -> None:
    with pytest.raises(ProxyError):
        sent(chat(params={"reasoning_effort": "high"}), "anthropic", model="claude-3-5-haiku")


@each(
    ("provider", "model", "effort", "expected"),
    [
        ("openai", "gpt-4.1", "high", None),
        ("openai", "gpt-4o", "high", None),
        ("openai", "o3", "max", "high"),
        ("openai", "o4-mini", "low", "low"),
        ("openai", "gpt-5", "xhigh", "high"),
        ("openai", "gpt-5-chat-latest", "high", None),
        ("openai", "gpt-5.1", "minimal", "low"),
        ("openai", "gpt-5.2", "max", "xhigh"),
        ("openai", "gpt-5.2", "none", "none"),
        ("openai", "gpt-6-sol", "max", "max"),
        ("openai", "gpt-6.1-sol", "none", None),
        ("groq", "openai/gpt-oss-120b", "max", "high"),
        ("ollama", "gpt-oss:20b", "medium", "medium"),
        ("gemini", "gemini-3-pro", "max", "high"),
        ("together", "codellama/CodeLlama-34b", "high", None),
        ("xai", "grok-3-mini", "medium", "low"),
        ("openrouter", "anything", "max", "xhigh"),
        ("openai", "gpt-5", "huge", None),
    ],
)
def test_the_nearest_effort_that_a_model_accepts(
    provider: str, model: str, effort: str, expected: Any
) -> None:
    assert nearest_effort(effort, deployment(provider=provider, model=model)) == expected


def test_an_effort_for_a_model_without_one_is_dropped_and_reported() -> None:
    request = parsed(thinking={"type": "adaptive"}, output_config={"effort": "high"})
    found = sent(request, "openai", model="gpt-4.1")
    assert found.dropped == ("reasoning_effort",)
    assert b"reasoning_effort" not in found.body
    assert orjson.loads(sent(request, "openai", model="gpt-5").body)["reasoning_effort"] == "high"


@each(("provider", "is_sent"), [("openai", False), ("groq", False), ("vllm", True), ("together", True)])
def test_top_k_goes_where_it_is_known(provider: str, is_sent: bool) -> None:
    found = sent(parsed(top_k=5), provider)
    assert ("top_k" in orjson.loads(found.body)) is is_sent
    assert found.dropped == ()


# --- max_tokens ----------------------------------------------------------------------------------------------


@each(
    ("entry", "wanted", "expected"),
    [
        ({"model": "gpt-4o"}, 32_000, 16_384),
        ({"model": "gpt-4o"}, 16_384, None),
        ({"model": "gpt-4.1-mini"}, 128_000, 32_768),
        ({"model": "gpt-5.2"}, 128_000, None),
        ({"model": "x", "base_model": "gpt-3.5-turbo"}, 32_000, 4096),
        ({"model": "claude-3-haiku-20240307"}, 32_000, 4096),
        ({"model": "anthropic/claude-3.7-sonnet"}, 128_000, 64_000),
        ({"model": "claude-opus-4-20250514"}, 128_000, 32_000),
        ({"model": "claude-opus-4-1"}, 128_000, 32_000),
        ({"model": "us.anthropic.claude-opus-4-1-20250805-v1:0"}, 128_000, 32_000),
        ({"model": "claude-opus-4-5"}, 128_000, 64_000),
        ({"model": "claude-opus-4-6"}, 128_000, None),
        ({"model": "anthropic/claude-sonnet-4.6"}, 128_000, None),
        ({"model": "claude-sonnet-4-6"}, 200_000, 128_000),
        ({"model": "claude-sonnet-4@20250514"}, 128_000, 64_000),
        ({"model": "claude-opus-5-5"}, 200_000, 128_000),
        ({"model": "claude-sonnet-4-5-20250929"}, 128_000, 64_000),
        ({"model": "codellama"}, 128_000, None),
        ({"model": "codellama", "output_limit": 2048}, 128_000, 2048),
        ({"model": "codellama", "context_window": 16_384}, 128_000, 16_384 - 256 - 8),
        ({"model": "codellama", "context_window": 1000}, 128_000, 1024),
        ({"model": "codellama", "context_window": 1000}, 100, None),
    ],
)
def test_a_bound_above_the_models_is_narrowed(
    entry: dict[str, Any], wanted: int, expected: int | None
) -> None:
    assert narrowed_max_tokens(parsed(max_tokens=wanted), deployment(**entry)) == expected


def test_a_bound_of_a_chat_is_not_narrowed() -> None:
    assert narrowed_max_tokens(chat(params={"max_tokens": 32_000}), deployment(model="gpt-4o")) is None


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "replicate"])
def test_the_narrowed_bound_is_sent(provider: str) -> None:
    body = orjson.loads(sent(parsed(max_tokens=128_000), provider, output_limit=2048).body)
    assert body.get("max_tokens", body.get("max_completion_tokens")) == 2048


# --- server tools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_request_for_a_server_tool_is_refused(provider: str) -> None:
    with pytest.raises(ProxyError) as caught:
        sent(parsed(SEARCH), provider)
    assert caught.value.status == 400
    assert caught.value.message == "The tool web_search is not available with this model."


def test_a_server_tool_among_others_is_left_out_and_reported() -> None:
    found = sent(parsed(tools=[tool("f"), SEARCH["tools"][0]]), "openai")
    assert [one["function"]["name"] for one in orjson.loads(found.body)["tools"]] == ["f"]
    assert found.dropped == ("tools.web_search",)
