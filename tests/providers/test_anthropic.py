"""Requests to Anthropic's Messages API, case by case, each judged by what the API itself refuses."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.build import freeze
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.providers.anthropic import adapter as anthropic
from codellama_proxy.providers.anthropic.capabilities import ALWAYS_THINKING, COMPATIBLE, capabilities
from codellama_proxy.providers.anthropic.json_schema import closed
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.dialects.anthropic_rules import Refused, check

SONNET, HAIKU, OPUS = "claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-5-5"
TOOL: Any = {"type": "function", "function": {"name": "f"}}
FORCED: Any = {"type": "function", "function": {"name": "f"}}


def entry(model: str = SONNET, **changes: Any) -> Deployment:
    return deployment(**{"provider": "anthropic", "model": model, "base_url": None, **changes})


def sent(model: str = SONNET, *, entry_has: Any = None, messages: Any = None, **params: Any) -> HttpRequest:
    conversation = messages or [{"role": "user", "content": "hello"}]
    here = entry(model, **(entry_has or {}))
    return anthropic.to_request(
        chat(messages=[{"role": "system", "content": "Only code."}, *conversation], params=params), here
    )


def body(model: str = SONNET, **more: Any) -> dict[str, Any]:
    """What is sent, which Anthropic takes."""
    found = sent(model, **more)
    parsed: dict[str, Any] = orjson.loads(found.body)
    check(parsed, found.headers["anthropic-version"])
    return parsed


def talk(*messages: Any, model: str = SONNET, **params: Any) -> list[Any]:
    found: list[Any] = body(model, messages=list(messages), **params)["messages"]
    return found


def user(content: Any = "hello") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = None, *calls: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": content,
        **({"tool_calls": list(calls)} if calls else {}),
        **more,
    }


def call(call_id: str = "c1", name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str = "c1", content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


# --- where and as whom ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        "https://claude.example/anthropic",
        "https://claude.example/anthropic/",
        "https://claude.example/anthropic/v1",
        "https://claude.example/anthropic/v1/messages",
    ],
)
def test_a_base_url_may_include_version_and_endpoint(base_url: str) -> None:
    found = sent(entry_has={"base_url": base_url})
    assert found.url == "https://claude.example/anthropic/v1/messages"


def test_the_key_is_x_api_key_or_a_bearer_token_on_bedrock() -> None:
    assert sent().url == "https://api.anthropic.com/v1/messages"
    assert sent().headers["x-api-key"] == "sk-upstream-secret"
    mantle = sent(entry_has={"base_url": "https://bedrock-mantle.us-east-1.api.aws/anthropic"})
    assert mantle.headers["authorization"] == "Bearer sk-upstream-secret"
    assert "x-api-key" not in mantle.headers
    assert not {"authorization", "x-api-key"} & sent(entry_has={"api_key": None}).headers.keys()


def test_the_old_api_version_is_used_only_for_sampling_parameters() -> None:
    assert sent().headers["anthropic-version"] == "2026-10-21"
    for name, value in [("temperature", 0), ("top_p", 0.5), ("top_k", 5)]:
        assert sent(**{name: value}).headers["anthropic-version"] == "2023-06-01"
    fixed = sent(entry_has={"headers": {"anthropic-version": "2030-01-01"}})
    assert fixed.headers["anthropic-version"] == "2030-01-01"


def test_betas_become_a_header() -> None:
    assert sent(betas=["a-2026", "b"]).headers["anthropic-beta"] == "a-2026,b"
    for bad in ([], ["a\r\nx-evil: 1"], 5):
        with pytest.raises(ProxyError):
            sent(betas=bad)


# --- models --------------------------------------------------------------------------------------------------


def test_base_model_determines_the_capabilities() -> None:
    here = entry("our-deployment", base_model="claude-opus-5-5-20261001")
    assert capabilities(here).thinking == "always"
    assert capabilities(entry("claude-next-9")) is ALWAYS_THINKING
    assert capabilities(entry("kimi-k2")) is COMPATIBLE


@each(
    ("model", "thinking", "sampling"),
    [
        ("claude-3-5-sonnet-20241022", "none", True),
        ("claude-opus-4-20250514", "budget", True),
        ("claude-opus-4-1-20250805", "budget", True),
        ("claude-sonnet-4-5-20250929", "budget", True),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "budget", True),
        ("claude-opus-4.6", "adaptive", True),
        ("claude-opus-4-7", "adaptive", False),
        ("claude-sonnet-5", "adaptive", False),
        ("claude-sonnet-5-20260601", "adaptive", False),
        ("claude-sonnet-5-5", "always", False),
        ("claude-fable-5", "always", False),
        ("claude-mythos-5-2", "always", False),
        ("claude-haiku-5-5", "adaptive", False),
    ],
)
def test_the_model_family_is_recognised_despite_dates_and_prefixes(
    model: str, thinking: str, sampling: bool
) -> None:
    able = capabilities(entry(model))
    assert (able.thinking, able.sampling) == (thinking, sampling)


# --- messages ------------------------------------------------------------------------------------------------


def test_the_guardrail_precedes_client_system_messages() -> None:
    later = [user("a"), assistant("b"), {"role": "developer", "content": "Be brief."}, user("c")]
    found = body(messages=[{"role": "system", "content": "Talk like a pirate."}, *later])
    assert found["system"] == "Only code.\n\nTalk like a pirate.\n\nBe brief."
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]


def test_late_system_messages_keep_their_place_if_supported() -> None:
    late = {"role": "system", "content": "Be brief."}
    found = body(OPUS, messages=[user(), assistant(None, call()), late, result(), user("so?")], tools=[TOOL])
    assert found["system"] == "Only code."
    assert [message["role"] for message in found["messages"]] == [
        *("user", "assistant", "user", "system", "user")
    ]
    assert talk(user(), late, model=OPUS)[-1] == {"role": "system", "content": "Be brief."}


def test_content_with_cache_control_stays_a_block() -> None:
    part = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    found = body(messages=[{"role": "system", "content": [part]}, user()])
    assert found["system"] == [{"type": "text", "text": "Only code."}, part]
    openais = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
    assert talk(user([openais]))[0]["content"][0]["cache_control"] == {"type": "ephemeral"}


def test_turns_alternate_and_start_with_the_user() -> None:
    assert talk(user("a"), user("b")) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    assert [one["role"] for one in talk(assistant("hello"), user("hi"))] == ["user", "assistant", "user"]
    assert talk({"role": "system", "content": "x"})[0]["role"] == "user"


def test_empty_texts_are_omitted() -> None:
    assert talk(user("a"), assistant(""), user("b"))[0]["content"][1]["text"] == "b"
    assert talk(user([{"type": "text", "text": " "}, {"type": "text", "text": "a"}]))[0]["content"] == "a"


def test_tool_results_are_grouped_before_other_user_content() -> None:
    found = talk(
        user(),
        assistant("Let me look.", call("c1", arguments='{"a": 1}'), call("c2")),
        user("Hurry!"),
        result("c2", "two"),
        result("c1", [{"type": "text", "text": "one"}], is_error=True),
        tools=[TOOL],
    )
    uses = found[1]["content"]
    assert [(one["type"], one.get("input")) for one in uses] == [
        ("text", None),
        ("tool_use", {"a": 1}),
        ("tool_use", {}),
    ]
    assert [(one["type"], one.get("tool_use_id"), one.get("is_error")) for one in found[2]["content"]] == [
        ("tool_result", "c2", None),
        ("tool_result", "c1", True),
        ("text", None, None),
    ]


def test_tool_call_ids_are_made_valid_for_both_sides() -> None:
    found = talk(user(), assistant(None, call("call:1|x")), result("call:1|x"), tools=[TOOL])
    assert found[1]["content"][0]["id"] == found[2]["content"][0]["tool_use_id"] == "call_1_x"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('{"a":1}', {"a": 1}),
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ('{"a":', {"_raw": '{"a":'}),
        ("[1]", {"_raw": "[1]"}),
    ],
)
def test_tool_arguments_are_always_an_object(arguments: Any, found: Any) -> None:
    conversation = talk(user(), assistant(None, call(arguments=arguments)), result(), tools=[TOOL])
    assert conversation[1]["content"][0]["input"] == found


def test_tools_of_earlier_calls_are_declared_if_the_request_has_none() -> None:
    found = body(messages=[user(), assistant(None, call(name="g")), result()])
    assert found["tools"] == [{"name": "g", "input_schema": {"type": "object", "properties": {}}}]


def test_images_and_documents_are_translated() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,aGVq", "detail": "low"}},
        {"type": "image_url", "image_url": "https://a.example/x.png"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGVq"}},
        {"type": "file", "file": {"file_data": "data:text/csv;charset=utf-8,a%2Cb"}},
    ]
    assert talk(user(parts))[0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVq"}},
        {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "aGVq"},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}},
    ]


@each(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://a.example/x.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,aGVq"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,a!!"}},
        {"type": "image_url"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,aGVq"}},
        {"type": "input_audio", "input_audio": {"data": "aGVq", "format": "wav"}},
        {"type": "tool_result", "tool_use_id": "x"},
    ],
)
def test_other_content_is_refused_with_its_position(part: dict[str, Any]) -> None:
    with pytest.raises(ProxyError) as caught:
        sent(messages=[user([{"type": "text", "text": "a"}, part])])
    assert (caught.value.param or "").startswith("messages[1].content[1]")
    assert caught.value.status == 400


def test_a_prefill_is_sent_only_to_models_that_support_it() -> None:
    assert talk(user(), assistant("Sure: \n"), model=HAIKU)[-1]["content"] == "Sure:"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]
    assert talk(user(), assistant(parts), model=HAIKU)[-1]["content"][-1]["text"] == "b"
    with pytest.raises(ProxyError) as caught:
        sent(messages=[user(), assistant("Sure:")])
    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages[2]")


# --- parameters ----------------------------------------------------------------------------------------------


def test_a_request_matches_the_expected_json() -> None:
    found = body(
        max_completion_tokens=500,
        temperature=0.5,
        stop=["END"],
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "strict": True}}],
        tool_choice="required",
        parallel_tool_calls=False,
        user="u-1",
        n=1,
        logit_bias={},
        service_tier="auto",
        verbosity="low",
    )
    assert found == {
        "model": SONNET,
        "max_tokens": 500,
        "system": "Only code.",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "tools": [
            {
                "name": "f",
                "input_schema": {"type": "object", "properties": {}},
                "description": "d",
                "strict": True,
            }
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "disabled"},
        "metadata": {"user_id": "u-1"},
    }


def test_max_tokens_is_always_sent_and_at_most_the_models() -> None:
    assert body()["max_tokens"] == 4096
    assert body(entry_has={"max_output_tokens": 9000})["max_tokens"] == 9000
    assert body(HAIKU, max_tokens=100_000)["max_tokens"] == 64_000
    assert orjson.loads(sent("claude-next", max_tokens=900_000).body)["max_tokens"] == 900_000


@each(
    ("model", "params"),
    [
        (SONNET, {"n": 2}),
        (SONNET, {"logprobs": True}),
        (SONNET, {"presence_penalty": 0.5}),
        (SONNET, {"logit_bias": {"1": 1}}),
        (SONNET, {"temperature": 1.2}),
        (SONNET, {"audio": {}}),
        (SONNET, {"web_search_options": {}}),
        (SONNET, {"min_p": 0.1}),
        (SONNET, {"mcp_servers": [{"url": "https://evil.example"}]}),
        (SONNET, {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
        (OPUS, {"top_p": 0.5}),
        (OPUS, {"top_k": 5}),
        (OPUS, {"reasoning_effort": "none"}),
        ("claude-3-haiku-20240307", {"reasoning_effort": "low"}),
    ],
)
def test_unsupported_parameters_are_refused_or_reported(model: str, params: dict[str, Any]) -> None:
    (name,) = params
    with pytest.raises(ProxyError) as caught:
        sent(model, **params)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)
    dropped = sent(model, entry_has={"drop_params": True}, **params)
    assert dropped.dropped == (name,)
    assert orjson.loads(dropped.body).get(name, 1.0) == 1.0


def test_defaults_are_never_refused() -> None:
    idle = {
        "n": 1,
        "temperature": 1,
        "top_p": 1.0,
        "logprobs": False,
        "top_logprobs": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    for model in (SONNET, HAIKU, OPUS):
        assert sent(model, **idle).dropped == ()


def test_a_seed_is_dropped_and_reported() -> None:
    assert sent(seed=7).dropped == ("seed",)
    assert b"seed" not in sent(seed=7).body


def test_an_entrys_params_are_sent_unchanged() -> None:
    own = freeze({"service": {"x": [1]}, "thinking": {"type": "adaptive"}})
    found = sent(entry_has={"params": own}, **own)
    assert orjson.loads(found.body)["service"] == {"x": [1]}
    assert orjson.loads(found.body)["thinking"] == {"type": "adaptive"}


def test_every_form_of_tool_choice_is_translated() -> None:
    def choice(found: Any, **more: Any) -> Any:
        return body(tools=[TOOL], tool_choice=found, **more).get("tool_choice")

    assert choice("auto") is None
    assert choice("none") == {"type": "none"}
    assert choice("none", parallel_tool_calls=False) == {"type": "none"}
    assert choice(FORCED) == {"type": "tool", "name": "f"}
    assert choice("auto", parallel_tool_calls=False) == {"type": "auto", "disable_parallel_tool_use": True}
    both = [TOOL, {"type": "function", "function": {"name": "g"}}]
    subset = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}
    found = body(tools=both, tool_choice=subset)
    assert ([tool["name"] for tool in found["tools"]], found["tool_choice"]) == (["f"], {"type": "any"})
    with pytest.raises(ProxyError):
        sent(tools=[TOOL], tool_choice="perhaps")


def test_forced_tools_are_refused_for_models_that_always_think() -> None:
    with pytest.raises(ProxyError) as caught:
        sent(OPUS, tools=[TOOL], tool_choice="required")
    assert caught.value.param == "tool_choice"
    found = sent(OPUS, entry_has={"drop_params": True}, tools=[TOOL], tool_choice=FORCED)
    assert found.dropped == ("tool_choice",)
    assert "tool_choice" not in orjson.loads(found.body)


# --- thinking and the form of the answer ---------------------------------------------------------------------


@each(
    ("model", "effort", "thinking", "word"),
    [
        (SONNET, "minimal", {"type": "adaptive"}, "low"),
        (SONNET, "high", {"type": "adaptive"}, "high"),
        (SONNET, "xhigh", {"type": "adaptive"}, "high"),
        (SONNET, "max", {"type": "adaptive"}, "max"),
        (SONNET, "none", {"type": "disabled"}, None),
        (OPUS, "xhigh", None, "xhigh"),
        ("claude-opus-4-5", "max", None, "high"),
        (HAIKU, "low", {"type": "enabled", "budget_tokens": 1024}, None),
        (HAIKU, "medium", {"type": "enabled", "budget_tokens": 4096}, None),
        (HAIKU, "high", {"type": "enabled", "budget_tokens": 5000}, None),
        (HAIKU, "none", None, None),
    ],
)
def test_reasoning_effort_is_translated_for_each_model(
    model: str, effort: str, thinking: Any, word: Any
) -> None:
    found = body(model, reasoning_effort=effort, max_tokens=10_000)
    assert found.get("thinking") == thinking
    assert found.get("output_config") == ({"effort": word} if word else None)


def test_thinking_is_disabled_if_max_tokens_is_too_small() -> None:
    assert "thinking" not in body(HAIKU, reasoning_effort="high", max_tokens=1024)
    assert body(HAIKU, reasoning_effort="high", max_tokens=1100)["thinking"]["budget_tokens"] == 1024


def test_an_unknown_effort_is_refused() -> None:
    with pytest.raises(ProxyError) as caught:
        sent(reasoning_effort="enormous")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "reasoning_effort")


def test_thinking_excludes_sampling_parameters_and_forced_tools() -> None:
    found = sent(reasoning_effort="low", temperature=0.3, top_k=5, top_p=0.5)
    assert found.dropped == ("temperature", "top_k", "top_p")
    assert sent(reasoning_effort="low", temperature=1).dropped == ()
    for model in (SONNET, HAIKU):
        forced = body(model, reasoning_effort="high", tools=[TOOL], tool_choice="required", max_tokens=9000)
        assert forced["thinking"] == {"type": "disabled"}


def test_thinking_needs_the_thinking_blocks_of_earlier_tool_calls() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    asked: dict[str, Any] = {"tools": [TOOL], "reasoning_effort": "low"}
    kept = [user(), assistant(None, call(), thinking_blocks=[thought]), result()]
    found = body(HAIKU, messages=kept, **asked)
    assert found["messages"][1]["content"][0] == thought
    assert found["thinking"]["type"] == "enabled"
    for silent in ((), (assistant(" "),), (assistant([{"type": "text", "text": "\n"}]),)):
        forgotten = [user(), assistant(None, call()), result(), *silent]
        assert "thinking" not in body(HAIKU, messages=forgotten, **asked)


def test_structured_output_is_requested() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = body(response_format=wanted, reasoning_effort="low")["output_config"]
    assert found["effort"] == "low"
    assert found["format"]["schema"]["properties"]["n"] == {"type": "integer", "description": "(minimum: 1)"}
    loose = body(response_format={"type": "json_object"})
    assert loose["system"].startswith("Only code.\n\nRespond with one valid JSON object")
    assert "output_config" not in loose
    for bad in ({"type": "json_schema"}, {"type": "grammar"}):
        with pytest.raises(ProxyError):
            sent(response_format=bad)


def test_schemas_are_closed_recursively() -> None:
    schema = {
        "type": "object",
        "description": "A thing.",
        "maxProperties": 3,
        "properties": {
            "minimum": {"type": ["object", "null"], "properties": {}},
            "list": {"type": "array", "items": {"$ref": "#/$defs/one"}, "minItems": 1},
            "map": {"type": "object", "additionalProperties": {"type": "string", "minLength": 2}},
        },
        "$defs": {"one": {"anyOf": [{"type": "object", "properties": {}}, {"enum": ["minimum"]}]}},
    }
    assert closed(schema) == {
        "type": "object",
        "description": "A thing. (maxProperties: 3)",
        "properties": {
            "minimum": {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
            "list": {"type": "array", "items": {"$ref": "#/$defs/one"}, "description": "(minItems: 1)"},
            "map": {
                "type": "object",
                "additionalProperties": {"type": "string", "description": "(minLength: 2)"},
            },
        },
        "$defs": {
            "one": {
                "anyOf": [
                    {"type": "object", "properties": {}, "additionalProperties": False},
                    {"enum": ["minimum"]},
                ]
            }
        },
        "additionalProperties": False,
    }


# --- whatever comes ------------------------------------------------------------------------------------------

contents = st.sampled_from(["", " ", "a", None, [{"type": "text", "text": "b "}], []])
loops = st.builds(
    lambda ids, conversation, between: [
        assistant(conversation, *(call(one) for one in ids)),
        *([{"role": "system", "content": "Be brief."}] if between else []),
        *(result(one, "") for one in ids),
    ],
    st.lists(st.sampled_from(["a", "b.c", "d"]), min_size=1, max_size=3, unique=True),
    contents,
    st.booleans(),
)
singles = st.sampled_from(["user", "assistant", "system", "developer"]).flatmap(
    lambda role: contents.map(lambda content: [{"role": role, "content": content}])
)
conversations = st.lists(loops | singles, max_size=6).map(
    lambda found: [one for part in found for one in part]
)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5, 1, 2]),
        "top_p": st.sampled_from([0.5, 1]),
        "max_tokens": st.sampled_from([1, 1024, 3000, 200_000]),
        "tools": st.sampled_from([[], [TOOL]]),
        "tool_choice": st.sampled_from(["auto", "none", "required", FORCED]),
        "parallel_tool_calls": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "high", "xhigh", "max"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "seed": st.just(1),
        "n": st.sampled_from([1, 2]),
    },
)


@given(st.sampled_from([SONNET, HAIKU, OPUS, "claude-opus-4-7"]), conversations, parameters)
def test_arbitrary_conversations_become_valid_anthropic_requests(
    model: str, messages: list[Any], params: dict[str, Any]
) -> None:
    try:
        found = sent(model, entry_has={"drop_params": True}, messages=messages, **params)
    except ProxyError as error:
        if "continue an assistant message" not in error.message:
            raise
        return
    sent_body = orjson.loads(found.body)
    assert str(sent_body["system"]).startswith("Only code.")
    check(sent_body, found.headers["anthropic-version"])


def test_the_reference_rules_refuse_invalid_requests() -> None:
    with pytest.raises(Refused):
        check(orjson.loads(sent(temperature=0.5).body), "2026-10-21")
