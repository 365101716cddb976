"""What Azure, Hugging Face, Gemini, Bedrock and Mistral do to OpenAI's dialect, both ways."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest, Usage
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.providers.openai.messages import short_tool_id
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, fold, read
from tests.support.conversations import sse
from tests.support.dialogues import call, chunk

RESOURCE = "https://ours.openai.azure.com"
TOOLS: Any = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]


def entry(provider: str, **changes: Any) -> Deployment:
    return deployment(**{"provider": provider, "base_url": None, **changes})


def sent(provider: str, *, entry_has: Any = None, messages: Any = None, **params: Any) -> HttpRequest:
    asked = chat(params=params, **({"messages": messages} if messages else {}))
    return ADAPTERS[provider].to_request(asked, entry(provider, **(entry_has or {})))


def body(provider: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(sent(provider, **more).body)
    return found


def streamed(provider: str, *data: Any, **asked: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which must be complete."""
    found, complete = read(ADAPTERS[provider], [sse(*data, b"[DONE]")], chat(**asked), entry(provider))
    assert complete
    return chunks(found)


# --- azure ---------------------------------------------------------------------------------------------------


@each(
    ("base_url", "extra", "url"),
    [
        (RESOURCE, {}, f"{RESOURCE}/openai/v1/chat/completions"),
        (RESOURCE + "/", {}, f"{RESOURCE}/openai/v1/chat/completions"),
        (f"{RESOURCE}/openai", {}, f"{RESOURCE}/openai/v1/chat/completions"),
        (f"{RESOURCE}/openai/v1/", {}, f"{RESOURCE}/openai/v1/chat/completions"),
        (f"{RESOURCE}/openai/deployments/x", {}, f"{RESOURCE}/openai/v1/chat/completions"),
        ("https://gateway.example/v1", {}, "https://gateway.example/v1/chat/completions"),
        (
            RESOURCE,
            {"api_version": "preview"},
            f"{RESOURCE}/openai/v1/chat/completions?api-version=preview",
        ),
        (
            f"{RESOURCE}/openai/v1",
            {"api_version": "2024-10-21", "deployment": "our gpt"},
            f"{RESOURCE}/openai/deployments/our%20gpt/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_the_azure_url_is_built_from_the_resource_url(base_url: str, extra: Any, url: str) -> None:
    assert sent("azure", entry_has={"base_url": base_url, "extra": extra}).url == url


def test_azure_uses_the_api_key_header_and_the_deployment_name() -> None:
    here = {"base_url": RESOURCE, "model": "gpt-x", "extra": {"deployment": "ours"}, "base_model": "gpt-5"}
    found = sent("azure", entry_has=here, max_tokens=9)
    assert found.headers["api-key"] == "sk-upstream-secret"
    assert "authorization" not in found.headers
    assert orjson.loads(found.body)["model"] == "ours"
    assert orjson.loads(found.body)["max_completion_tokens"] == 9
    token = {"base_url": RESOURCE, "api_key": None, "headers": {"authorization": "Bearer entra"}}
    assert sent("azure", entry_has=token).headers["authorization"] == "Bearer entra"


def test_azure_filter_results_are_not_content() -> None:
    filtered = {"hate": {"filtered": False, "severity": "safe"}}
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    asynchronous = {**chunk({}), "choices": [{"index": 0, "delta": {}, "content_filter_results": filtered}]}
    shown = streamed(
        "azure",
        first,
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "hi"}),
        asynchronous,
        chunk({}, "content_filter"),
    )
    assert {(one["id"], one["created"], one["model"]) for one in shown} == {
        ("chatcmpl-1", 1_795_340_000, "m-2026")
    }
    assert shown[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_an_azure_filter_is_a_client_error_and_a_missing_deployment_is_not() -> None:
    filtered = {
        "error": {
            "message": "The response was filtered.",
            "code": "content_filter",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }
    missing = {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}
    assert refused(400, filtered) == ("caller", "content_filter")
    assert refused(404, missing)[0] == "credential"


def refused(status: int, found: Any) -> tuple[str, str]:
    error = parse_error(orjson.dumps(found))
    failure = failures.of_status(status, {}, error, 0.0)
    return failure.cls, failure.code


# --- words of other providers for whose fault it was ---------------------------------------------------------


@each(
    ("status", "found", "cls"),
    [
        (404, {"error": {"type": "not_found_error", "message": "model: claude-x"}}, "credential"),
        (404, {"error": {"type": "not_found_error", "message": "Not found"}}, "caller"),
        (
            429,
            {
                "error": {
                    "type": "rate_limit_error",
                    "details": {"error_code": "enforced_spend_limit_reached"},
                }
            },
            "credential",
        ),
        (429, {"error": {"type": "rate_limit_error", "message": "slow down"}}, "busy"),
        (529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, "busy"),
        (
            400,
            [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}],
            "credential",
        ),
        (400, [{"error": {"code": 400, "message": "Bad.", "status": "INVALID_ARGUMENT"}}], "caller"),
        (
            400,
            {"error": {"message": "The model is not supported by any provider you have enabled."}},
            "credential",
        ),
        (424, {"error": "Request failed during generation", "error_type": "generation"}, "transient"),
    ],
)
def test_failures_are_attributed_to_client_or_operator(status: int, found: Any, cls: str) -> None:
    assert refused(status, found)[0] == cls


# --- hugging face --------------------------------------------------------------------------------------------


def test_a_dedicated_endpoint_gets_no_zero_temperature() -> None:
    own = {"base_url": "https://abc.us-east-1.aws.endpoints.huggingface.cloud/v1"}
    found = body("huggingface", entry_has=own, temperature=0, top_p=1)
    assert (found["temperature"], found.get("top_p")) == (0.01, None)
    assert body("huggingface", entry_has=own, top_p=0)["top_p"] == 0.01
    router = body("huggingface", temperature=0, top_p=1)
    assert (router["temperature"], router["top_p"]) == (0, 1)
    assert sent("huggingface").url == "https://router.huggingface.co/v1/chat/completions"


@pytest.mark.parametrize(
    ("reason", "found"), [("eos_token", "stop"), ("stop_sequence", "stop"), ("length", "length")]
)
def test_tgi_finish_reasons_are_translated(reason: str, found: str) -> None:
    shown = streamed("huggingface", chunk({"content": "hi"}), chunk({}, reason))
    assert shown[-1]["choices"][0]["finish_reason"] == found


# --- gemini and bedrock --------------------------------------------------------------------------------------

SIGNED = {**call("f", "{}"), "extra_content": {"google": {"thought_signature": "c2ln"}}}


def test_thought_signatures_round_trip() -> None:
    shown = streamed(
        "gemini", chunk({"role": "assistant", "tool_calls": [{"index": 0, **SIGNED}]}), chunk({}, "stop")
    )
    assert shown[0]["choices"][0]["delta"]["tool_calls"][0]["extra_content"] == SIGNED["extra_content"]
    assert shown[-1]["choices"][0]["finish_reason"] == "tool_calls"
    back = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [SIGNED]},
        {"role": "tool", "tool_call_id": "call_f", "content": "done"},
    ]
    assert body("gemini", messages=back)["messages"] == back


def test_parallel_calls_with_one_index_are_separated() -> None:
    calls = [{"index": 0, **call(name, "{}", f"id_{name}")} for name in ("f", "g", "h")]
    found, _ = read(
        ADAPTERS["gemini"],
        [
            sse(
                chunk({"tool_calls": calls[:2]}),
                chunk({"tool_calls": calls[2:]}),
                chunk({}, "stop"),
                b"[DONE]",
            )
        ],
        chat(),
        entry("gemini"),
    )
    tool_calls = fold(found)["choices"][0]["message"]["tool_calls"]
    assert [one["function"]["name"] for one in tool_calls] == ["f", "g", "h"]


def test_a_call_that_repeats_its_name_is_one_call() -> None:
    pieces = [chunk({"tool_calls": [{"index": 0, **call("f", part)}]}) for part in ("{", "}")]
    shown = streamed("vllm", *pieces, chunk({}, "tool_calls"))
    assert {one["choices"][0]["delta"]["tool_calls"][0]["index"] for one in shown[:2]} == {0}


def test_bedrock_model_names_may_have_a_region_prefix() -> None:
    found = sent("bedrock", entry_has={"model": "us.openai.gpt-5.6-sol"}, max_tokens=9)
    assert orjson.loads(found.body)["max_completion_tokens"] == 9
    assert found.url == "https://bedrock-mantle.us-east-1.api.aws/openai/v1/chat/completions"
    assert found.headers["authorization"] == "Bearer sk-upstream-secret"
    other = body("bedrock", entry_has={"model": "openai.gpt-oss-120b"}, max_tokens=9)
    assert other["max_tokens"] == 9


# --- mistral -------------------------------------------------------------------------------------------------


@given(st.text())
def test_mistral_ids_have_nine_characters_and_are_stable(call_id: str) -> None:
    found = short_tool_id(call_id)
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", found)
    assert short_tool_id(found) == found == short_tool_id(call_id)


def test_calls_and_results_have_the_same_short_id() -> None:
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call("f", "{}", "toolu_01A"), call("g", "{}")]},
        {"role": "tool", "tool_call_id": "call_g", "content": "g"},
        {"role": "tool", "tool_call_id": "toolu_01A", "content": "f"},
    ]
    found = body("mistral", messages=talk)["messages"]
    first, second = (one["id"] for one in found[1]["tool_calls"])
    assert first != second
    assert [one["tool_call_id"] for one in found[2:]] == [second, first]
    assert talk[1]["tool_calls"][0]["id"] == "toolu_01A", "the request itself is left alone"
    assert body("openai", messages=talk)["messages"] == talk


def test_a_named_tool_is_sent_alone_where_it_cannot_be_forced() -> None:
    named = {"type": "function", "function": {"name": "g"}}
    found = body("mistral", tools=TOOLS, tool_choice=named)
    assert (found["tools"], found["tool_choice"]) == (TOOLS[1:], "any")
    assert body("together", tools=TOOLS, tool_choice=named)["tool_choice"] == named


def test_allowed_tools_are_sent_alone_where_unsupported() -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": TOOLS[:1]}}
    assert body("openai", tools=TOOLS, tool_choice=choice)["tool_choice"] == choice
    for provider, word in [("groq", "required"), ("mistral", "any")]:
        found = body(provider, tools=TOOLS, tool_choice=choice)
        assert (found["tools"], found["tool_choice"]) == (TOOLS[:1], word)
    with pytest.raises(ProxyError):
        body("groq", tools=TOOLS[1:], tool_choice=choice)


def test_content_parts_become_text_and_reasoning() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}]}
    parts = [thought, {"type": "text", "text": "4"}]
    tool_calls = {"index": 0, "message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    event = ADAPTERS["mistral"].parse_response(
        orjson.dumps({"id": "x", "created": 1, "choices": [tool_calls], "usage": usage}),
        chat(),
        entry("mistral"),
    )
    message = orjson.loads(event.body)["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    assert (event.text, event.usage) == ("2 and 24", Usage(3, 4))
    shown = streamed("mistral", chunk({"content": [thought]}), chunk({"content": "4"}), chunk({}, "stop"))
    assert shown[0]["choices"][0]["delta"] == {"content": None, "reasoning_content": "2 and 2"}


# --- all of them ---------------------------------------------------------------------------------------------


def test_an_entrys_params_may_be_nested() -> None:
    own = {"extra_body": {"google": {"thinking_config": {"include_thoughts": True}}}}
    found = ADAPTERS["gemini"].to_request(chat(params=own), entry("gemini", params=own))
    assert orjson.loads(found.body)["extra_body"] == own["extra_body"]


def test_reasoning_is_not_sent_to_another_provider() -> None:
    tool_calls = {"role": "assistant", "content": "4", "thinking_blocks": [{"type": "thinking"}]}
    for provider in ("openai", "azure", "together", "gemini", "vllm"):
        assert "thinking_blocks" not in body(provider, messages=[tool_calls])["messages"][0]
