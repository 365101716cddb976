"""Tools: what function stands for each, which tool a call is for, and what `tool_choice` becomes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.openai_format.request import InferenceRequest
from tests.inbound.responses import codex
from tests.inbound.responses.answers import call, chunk, encoder, events_in, of_type
from tests.support.cases import each

FUNCTION = {
    "type": "function",
    "name": "f",
    "description": "d",
    "strict": True,
    "parameters": {"type": "object"},
}
LONG = "n" * 60


def parse(*tools: Any, **fields: Any) -> InferenceRequest:
    body = {"model": "m", "input": "Hi", "tools": list(tools), **fields}
    return RESPONSES.parse(orjson.dumps(body), dict, "req_1", 0)


def functions(*tools: Any) -> list[dict[str, Any]]:
    return [tool["function"] for tool in parse(*tools).params.get("tools", ())]


def called(tool: dict[str, Any], name: str, arguments: str) -> tuple[dict[str, Any], list[str]]:
    """The item of a call of the function `name`, and the events between its first and its last."""
    writer = encoder({"model": "m", "stream": True, "input": "Hi", "tools": [tool]})
    chunks = [chunk(tool_calls=[call(0, "c", name, arguments)]), chunk(finish="tool_calls")]
    events = events_in(writer.events(chunks, ended=True))
    item: dict[str, Any] = of_type(events, "output_item.done")[0]["item"]
    return item, [event["type"].removeprefix("response.") for event in events[3:-2]]


def test_a_function_keeps_its_fields() -> None:
    assert parse(FUNCTION).params["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "strict": True, "parameters": {"type": "object"}},
        }
    ]
    assert functions({"type": "function", "name": "f", "parameters": None, "strict": None}) == [
        {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
    ]


@each(
    ("tool", "name", "arguments", "expected"),
    [
        (FUNCTION, "f", '{"a":1}', {"type": "function_call", "name": "f", "arguments": '{"a":1}'}),
        (FUNCTION, "f", "no json", {"type": "function_call", "name": "f", "arguments": "no json"}),
        (FUNCTION, "other", "{}", {"type": "function_call", "name": "other", "arguments": "{}"}),
        (
            codex.AGENTS,
            "multi_agent_v1__wait",
            "{}",
            {"type": "function_call", "name": "wait", "namespace": "multi_agent_v1", "arguments": "{}"},
        ),
        (
            codex.APPLY_PATCH,
            "apply_patch",
            '{"input":"*** Begin"}',
            {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin"},
        ),
        (
            codex.APPLY_PATCH,
            "apply_patch",
            "*** Begin",
            {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin"},
        ),
        (
            codex.TOOL_SEARCH,
            "tool_search",
            '{"query":"q"}',
            {"type": "tool_search_call", "execution": "client", "arguments": {"query": "q"}},
        ),
        (
            codex.TOOL_SEARCH,
            "tool_search",
            '{"a":' * 300,
            {"type": "tool_search_call", "execution": "client", "arguments": {}},
        ),
        (
            {"type": "local_shell"},
            "local_shell",
            '{"command":["ls"]}',
            {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        ),
        (
            {"type": "shell", "environment": {"type": "local"}},
            "shell",
            '{"commands":["ls"]}',
            {
                "type": "shell_call",
                "action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None},
            },
        ),
        (
            {"type": "apply_patch"},
            "apply_patch",
            '{"operation":{"type":"delete_file","path":"a"}}',
            {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
        ),
    ],
)
def test_a_call_comes_back_as_the_call_of_its_tool(
    tool: dict[str, Any], name: str, arguments: str, expected: dict[str, Any]
) -> None:
    item, _ = called(tool, name, arguments)
    prefix, _, number = item.pop("id").partition("_")
    assert prefix in ("fc", "ctc", "tsc", "lsh", "sh", "apc")
    assert number == "1_0"
    assert item == {"call_id": "c", "status": "completed", **expected}


def test_arguments_are_streamed_and_a_custom_tools_input_comes_at_once() -> None:
    assert called(FUNCTION, "f", "{}")[1] == ["function_call_arguments.delta", "function_call_arguments.done"]
    assert called(codex.APPLY_PATCH, "apply_patch", '{"input":"x"}')[1] == [
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
    ]
    assert called(codex.TOOL_SEARCH, "tool_search", "{}")[1] == []


def test_long_names_and_dots_come_back_as_they_were() -> None:
    tool = {"type": "namespace", "name": f"mcp.{LONG}", "tools": [{**FUNCTION, "name": LONG}]}
    (function,) = functions(tool)
    assert len(function["name"]) == 64
    assert "." not in function["name"]
    item, _ = called(tool, function["name"], "{}")
    assert (item["namespace"], item["name"]) == (f"mcp.{LONG}", LONG)
    past = {
        "type": "function_call",
        "call_id": "c",
        "name": LONG,
        "namespace": f"mcp.{LONG}",
        "arguments": "{}",
    }
    message = parse(tool, input=[{"role": "user", "content": "Hi"}, past]).messages[-1]
    assert message["tool_calls"][0]["function"]["name"] == function["name"]


def test_two_tools_of_one_name_are_refused_by_name() -> None:
    spread = {"type": "namespace", "name": "a", "tools": [{**FUNCTION, "name": "b"}]}
    with pytest.raises(ProxyError) as refused:
        parse(spread, {**FUNCTION, "name": "a__b"})
    assert "'function a.b' and 'function a__b'" in refused.value.message
    assert refused.value.param == "tools[1]"


def test_a_tool_that_is_loaded_again_replaces_itself() -> None:
    again = {"type": "additional_tools", "tools": [{**FUNCTION, "description": "new"}]}
    request = parse(FUNCTION, input=[again, {"role": "user", "content": "Hi"}])
    assert [tool["function"]["description"] for tool in request.params["tools"]] == ["new"]


def test_a_grammar_is_part_of_the_description() -> None:
    (function,) = functions(codex.APPLY_PATCH)
    assert function["description"] == (
        f"Edits files.\n\nThe input must follow this lark grammar:\n{codex.GRAMMAR}"
    )
    assert functions({"type": "custom", "name": "c", "format": {"type": "text"}})[0]["description"] == ""


@each(
    "kind",
    [
        *(
            "web_search",
            "web_search_preview_2025_03_11",
            "image_generation",
            "file_search",
            "code_interpreter",
        ),
        *("computer_use_preview", "computer", "programmatic_tool_calling"),
    ],
)
def test_hosted_tools_are_left_out_among_others_and_needed_alone(kind: str) -> None:
    hosted = {"type": kind}
    request = parse(FUNCTION, hosted)
    assert [tool["function"]["name"] for tool in request.params["tools"]] == ["f"]
    assert request.ignored == (f"tools.{kind}",)
    assert not request.needed_tool
    assert parse(hosted).needed_tool == kind
    assert parse(FUNCTION, hosted, tool_choice={"type": kind}).needed_tool == kind
    assert not parse(hosted, tool_choice="none").needed_tool


def test_a_search_for_tools_by_the_provider_is_left_out() -> None:
    assert parse(FUNCTION, {"type": "tool_search"}).ignored == ("tools.tool_search",)


@each(
    ("tool", "param"),
    [
        ({"type": "mcp", "server_url": "http://10.0.0.1", "server_label": "x"}, "tools[0]"),
        ({"type": "code_interpreter", "container": "cntr_1"}, "tools[0].container"),
        ({"type": "file_search", "vector_store_ids": ["vs_1"]}, "tools[0].vector_store_ids"),
        ({"type": "shell", "environment": {"type": "container_auto"}}, "tools[0].environment"),
    ],
)
def test_tools_with_stored_objects_or_servers_are_refused(tool: dict[str, Any], param: str) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(tool, FUNCTION)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)


@each(
    ("tool", "param"),
    [
        ("f", "tools[0]"),
        ({"name": "f"}, "tools[0]"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": ""}, "tools[0].name"),
        ({"type": "function", "name": "f", "parameters": []}, "tools[0].parameters"),
        ({"type": "namespace", "name": "n", "tools": {}}, "tools[0].tools"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}, "tools[0].tools[0].name"),
    ],
)
def test_a_wrong_tool_is_refused_with_its_place(tool: Any, param: str) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(tool)
    assert (refused.value.status, refused.value.param) == (400, param)


F_CHOSEN = {"type": "function", "function": {"name": "f"}}
WAIT_CHOSEN = {"type": "function", "function": {"name": "multi_agent_v1__wait"}}


@each(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        (None, None),
        ({"type": "function", "name": "f"}, F_CHOSEN),
        ({"type": "function", "name": "wait", "namespace": "multi_agent_v1"}, WAIT_CHOSEN),
        (
            {"type": "custom", "name": "apply_patch"},
            {"type": "function", "function": {"name": "apply_patch"}},
        ),
        ({"type": "tool_search"}, {"type": "function", "function": {"name": "tool_search"}}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
            },
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [F_CHOSEN]}},
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, "none"),
    ],
)
def test_a_choice_becomes_that_of_a_chat(choice: Any, expected: Any) -> None:
    tools = [FUNCTION, codex.APPLY_PATCH, codex.TOOL_SEARCH, codex.AGENTS, codex.WEB_SEARCH]
    request = parse(*tools, tool_choice=choice)
    assert request.params.get("tool_choice") == expected
    assert not request.needed_tool


@each(
    ("choice", "needed"),
    [
        ({"type": "web_search"}, "web_search"),
        ({"type": "function", "name": "absent"}, "absent"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}, "web_search"),
        ({"type": "mcp", "server_label": "x"}, "mcp"),
    ],
)
def test_a_choice_of_what_is_not_offered_is_needed(choice: Any, needed: str) -> None:
    assert parse(FUNCTION, codex.WEB_SEARCH, tool_choice=choice).needed_tool == needed


@each("choice", ["sometimes", 5, {}, {"type": 5}, {"type": "function"}, {"type": "allowed_tools"}])
def test_a_wrong_choice_is_refused(choice: Any) -> None:
    with pytest.raises(ProxyError) as refused:
        parse(FUNCTION, tool_choice=choice)
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith("tool_choice")


def test_without_tools_there_is_no_choice() -> None:
    request = parse(tool_choice="auto", parallel_tool_calls=False)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(request.params)
