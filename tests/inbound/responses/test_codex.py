"""What Codex sends is accepted, and what it needs of a stream is there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.openai_format.request import InferenceRequest
from tests.inbound.responses import codex
from tests.inbound.responses.answers import call, chunk, encoded, of_type, whole


def parse(body: dict[str, Any]) -> InferenceRequest:
    return RESPONSES.parse(orjson.dumps(body), lambda: codex.HEADERS, "req_1", 1_700_000_000)


def names(request: InferenceRequest) -> list[str]:
    return [tool["function"]["name"] for tool in request.params.get("tools", ())]


def test_a_request_for_an_unknown_model_becomes_a_chat() -> None:
    request = parse(codex.UNKNOWN_MODEL)
    assert (request.model, request.dialect, request.stream, request.include_usage) == (
        *("codellama", "responses", True),
        True,
    )
    assert [message["role"] for message in request.messages] == ["developer", "user", "user"]
    assert request.messages[0]["content"] == "You are Codex.\n\n<permissions>never</permissions>"
    assert names(request)[-2:] == ["multi_agent_v1__spawn_agent", "multi_agent_v1__wait"]
    assert request.ignored == ("client_metadata", "tools.web_search")
    assert request.params["prompt_cache_key"] == codex.THREAD
    assert "reasoning_effort" not in request.params
    assert request.native is not None
    assert request.native.body["client_metadata"] == {"x-codex-installation-id": codex.THREAD}
    assert "authorization" not in request.native.headers
    assert request.native.headers["session-id"] == codex.THREAD


def test_history_is_folded_into_messages() -> None:
    request = parse(codex.GPT_5_5)
    first, look, one, two, patch, patched, search, found, go = request.messages[2:]
    assert first == {"role": "user", "content": "List the files."}
    assert look["content"] == "I look."
    assert look["reasoning_content"] == "I should look."
    assert [made["function"]["name"] for made in look["tool_calls"]] == [
        "exec_command",
        "multi_agent_v1__spawn_agent",
    ]
    assert one == {"role": "tool", "tool_call_id": "call_1", "content": "a.txt"}
    assert two["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"},
    }
    assert patch["tool_calls"][0]["function"] == {
        "name": "apply_patch",
        "arguments": '{"input":"*** Begin Patch"}',
    }
    assert patched["content"] == "Done!"
    assert search["tool_calls"][0]["function"] == {"name": "tool_search", "arguments": '{"query":"calendar"}'}
    assert found["content"] == "Loaded tools: mcp__cal__create"
    assert go["role"] == "user"
    assert names(request)[-1] == "mcp__cal__create"
    assert request.params["reasoning_effort"] == "medium"
    assert request.params["verbosity"] == "low"
    assert {"reasoning_effort", "verbosity"} <= request.soft
    assert request.params["service_tier"] == "priority"
    assert request.params["response_format"]["json_schema"]["name"] == "codex_output_schema"


def test_code_mode_finds_its_tools_in_the_first_item() -> None:
    request = parse(codex.GPT_6)
    assert names(request) == ["exec", "wait", "clock__now", "collaboration__spawn_agent"]
    assert codex.GRAMMAR in request.params["tools"][0]["function"]["description"]
    assert request.params["parallel_tool_calls"] is False
    assert request.messages[0]["role"] == "developer"


def test_compaction_has_no_tools() -> None:
    request = parse(codex.COMPACTION)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(request.params)


def test_every_item_is_completed_in_the_stream() -> None:
    events = encoded(
        codex.GPT_5_5,
        chunk(reasoning_content="Hm."),
        chunk(content="I patch."),
        chunk(tool_calls=[call(0, "c1", "exec_command", '{"cmd":"ls"}')]),
        chunk(tool_calls=[call(1, "c2", "apply_patch", '{"input":"*** Begin\\n"}')]),
        chunk(tool_calls=[call(2, "c3", "multi_agent_v1__spawn_agent", '{"message":"x"}')]),
        chunk(tool_calls=[call(3, "c4", "tool_search", '{"query":"q"}')]),
        chunk(finish="tool_calls"),
    )
    done = [event["item"] for event in of_type(events, "output_item.done")]
    assert [item["type"] for item in done] == [
        *("reasoning", "message", "function_call", "custom_tool_call", "function_call", "tool_search_call"),
    ]
    assert done[3]["input"] == "*** Begin\n"
    assert (done[4]["name"], done[4]["namespace"]) == ("spawn_agent", "multi_agent_v1")
    assert (done[5]["execution"], done[5]["arguments"]) == ("client", {"query": "q"})
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"] == done


def test_half_a_call_is_never_completed() -> None:
    events = encoded(
        codex.GPT_5_5,
        chunk(tool_calls=[call(0, "c1", "exec_command", '{"cmd":"ls"}')]),
        chunk(tool_calls=[call(1, "c2", "exec_command", '{"cmd":"rm -r')]),
        chunk(finish="length"),
    )
    assert [event["item"]["call_id"] for event in of_type(events, "output_item.done")] == ["c1"]
    assert not [e for e in of_type(events, "function_call_arguments.done") if e["output_index"] == 1]
    last = events[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ProxyError("upstream_error", "It failed."), "server_error", "It failed."),
        (
            ProxyError("upstream_rate_limited", "Busy.", retry_after=1.5),
            "rate_limit_exceeded",
            "Busy. Please try again in 1.500s.",
        ),
        (ProxyError("insufficient_quota", "Spent."), "insufficient_quota", "Spent."),
        (ProxyError("context_length_exceeded", "Long."), "context_length_exceeded", "Long."),
        (ProxyError("content_filter", "No."), "invalid_prompt", "No."),
    ],
)
def test_a_broken_stream_ends_with_a_code_that_codex_knows(
    error: ProxyError, code: str, message: str
) -> None:
    events = encoded(codex.UNKNOWN_MODEL, chunk(content="half"), broken=error)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": code, "message": message}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"
    assert not of_type(events, "output_item.done")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_the_whole_answer_is_the_one_that_the_stream_ends_with() -> None:
    chunks = [
        chunk(reasoning_content="Hm."),
        chunk(content="Yes."),
        chunk(tool_calls=[call(0, "c1", "multi_agent_v1__wait", "")]),
        chunk(finish="tool_calls"),
        chunk(usage={"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}),
    ]
    streamed = encoded(codex.UNKNOWN_MODEL, *chunks)[-1]["response"]
    assert streamed == whole(codex.UNKNOWN_MODEL, *chunks)
    assert streamed["output"][2]["arguments"] == "{}"
    assert streamed["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }
