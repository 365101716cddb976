"""Tools and their choice in OpenAI's form."""

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.tool_names import original_names, wire_name
from tests.inbound.messages.claude_code import EPHEMERAL, SEARCH, TOOLS, parsed, tool
from tests.support.cases import each

WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
PLAIN = {"name": "f", "input_schema": {"type": "object"}}


def functions(*tools: dict[str, Any], **fields: Any) -> list[Any]:
    return [one["function"] for one in parsed(tools=list(tools), **fields).params.get("tools", ())]


def test_a_tool_is_a_function_without_what_only_anthropic_knows() -> None:
    [found] = functions(
        tool("Bash", defer_loading=True, eager_input_streaming=True, allowed_callers=["direct"])
    )
    assert found.keys() == {"name", "description", "parameters"}
    assert found["parameters"].keys() == {"type", "properties", "required"}
    assert found["parameters"]["properties"]["timeout"]["maximum"] == 9007199254740991


def test_deferred_tools_are_offered_and_the_placeholder_is_not() -> None:
    names = [one["name"] for one in functions(*TOOLS)]
    assert names[0:2] == ["Bash", "Read"]
    assert names[-1] == "WebFetch"
    assert len(names) == len(TOOLS) - 1


def test_marks_strict_and_examples() -> None:
    request = parsed(tools=[{**PLAIN, "strict": True, "input_examples": [{"a": 1}], **EPHEMERAL}])
    [found] = request.params["tools"]
    assert found["cache_control"] == EPHEMERAL["cache_control"]
    assert found["function"]["strict"] is True
    assert found["function"]["description"] == 'Examples of its input: [{"a":1}]'
    [long] = functions({**PLAIN, "input_examples": [{"a": "x" * 3000}]})
    assert "description" not in long


@each(
    ("kind", "name", "argument"),
    [
        ("bash_20250124", "bash", "command"),
        ("text_editor_20250728", "str_replace_based_edit_tool", "view_range"),
        ("memory_20250818", "memory", "old_path"),
    ],
)
def test_anthropics_client_tools_have_their_published_arguments(kind: str, name: str, argument: str) -> None:
    [found] = functions({"type": kind, "name": name})
    assert found["name"] == name
    assert argument in found["parameters"]["properties"]


@each(
    ("choice", "params"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"type": "tool", "name": "g"}, {}),
        ({"type": "new"}, {}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_choices(choice: dict[str, Any], params: dict[str, Any]) -> None:
    found = dict(parsed(tools=[PLAIN], tool_choice=choice).params)
    del found["tools"], found["max_tokens"]
    assert found == params


def test_no_choice_is_sent_without_tools() -> None:
    for tools in ([], None, [TOOLS[-1]]):
        params = parsed(tools=tools, tool_choice={"type": "any", "disable_parallel_tool_use": True}).params
        assert params.keys() == {"max_tokens"}


@each(
    ("tools", "choice", "needed"),
    [
        ([WEB_SEARCH], None, "web_search"),
        ([WEB_SEARCH, PLAIN], None, ""),
        ([WEB_SEARCH, PLAIN], {"type": "tool", "name": "web_search"}, "web_search"),
        ([WEB_SEARCH, PLAIN], {"type": "tool", "name": "f"}, ""),
        ([{"type": "computer_20250124", "name": "computer"}, PLAIN], None, "computer"),
        ([{"type": "code_execution_20250825", "name": "code_execution"}], None, "code_execution"),
        ([{"type": "mcp_toolset", "mcp_server_name": "x"}], None, "mcp_toolset"),
        ([{"type": "new_tool_20270101", "name": "new"}], None, ""),
    ],
)
def test_server_tools_are_left_out_or_needed(tools: list[Any], choice: Any, needed: str) -> None:
    request = parsed(tools=tools, tool_choice=choice)
    assert request.needed_tool == needed
    assert len(request.ignored) == (2 if choice and needed else 1)
    assert request.ignored[-1].startswith("tools.")


def test_the_web_search_of_claude_code_needs_the_tool() -> None:
    assert parsed(SEARCH).needed_tool == "web_search"


@each(
    ("tools", "param"),
    [
        ("no", "tools"),
        (["f"], "tools[0]"),
        ([{"name": 1}], "tools[0].name"),
        ([{}], "tools[0].name"),
        ([{"name": "f", "input_schema": []}], "tools[0].input_schema"),
        ([{"name": "f", "type": 1}], "tools[0].type"),
    ],
)
def test_malformed_tools_are_refused(tools: Any, param: str) -> None:
    with pytest.raises(ProxyError) as caught:
        parsed(tools=tools)
    assert (caught.value.status, caught.value.param) == (400, param)


@each(
    ("name", "is_kept"),
    [
        ("f", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a.b", False),
        ("a b", False),
        ("é", False),
        ("", False),
    ],
)
def test_names_that_a_provider_may_refuse_are_shortened(name: str, is_kept: bool) -> None:
    wire = wire_name(name)
    assert (wire == name) is is_kept
    assert 0 < len(wire) <= 64
    assert orjson.dumps(wire).isascii()
    assert original_names([name]) == ({} if is_kept else {wire: name})
    assert wire_name(wire) == wire


def test_long_names_with_a_common_beginning_stay_apart() -> None:
    assert len({wire_name("x" * 80 + str(at)) for at in range(100)}) == 100
