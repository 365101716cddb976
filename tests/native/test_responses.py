"""Edits of requests of the Responses API: nothing else in the body changes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.native import responses as native
from tests.native.test_messages import JSON
from tests.support.cases import each

GUARDRAIL = "Only code."
USER = {"role": "user", "content": "hi"}
DEVELOPER = {"type": "message", "role": "developer", "content": "Be brief."}
TOOLS = {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}
FOREIGN = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
OURS = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "clp1.AAAA"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}

ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "reasoning", "additional_tools", "namespace"]) | JSON,
        "role": st.sampled_from(["developer", "user"]) | JSON,
        "tools": st.lists(JSON) | JSON,
        "encrypted_content": st.sampled_from(["clp1.x", "y"]) | JSON,
    },
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "input": st.lists(ITEM | JSON) | JSON,
        **dict.fromkeys(("instructions", "tools", "tool_choice", "reasoning", "text"), JSON),
    },
)


@pytest.mark.parametrize(
    ("given_instructions", "expected"),
    [
        ({}, GUARDRAIL),
        ({"instructions": ""}, GUARDRAIL),
        ({"instructions": "Be brief."}, f"{GUARDRAIL}\n\nBe brief."),
    ],
)
def test_the_guardrail_begins_the_instructions(given_instructions: dict[str, Any], expected: str) -> None:
    body = {"input": [DEVELOPER, USER], "store": True, **given_instructions}
    guarded = native.guarded(body, GUARDRAIL, "keep")
    assert guarded == {**body, "instructions": expected, "store": False}
    assert list(guarded)[: len(body)] == list(body)
    assert native.guarded(body, "", "keep") == {**body, "store": False}


def test_system_prompts_of_clients_are_dropped_on_request() -> None:
    body = {
        "instructions": "Be brief.",
        "input": [DEVELOPER, TOOLS, USER, {"role": "system", "content": "x"}],
    }
    guarded = native.guarded(body, GUARDRAIL, "drop")
    assert guarded == {"input": [TOOLS, USER], "store": False, "instructions": GUARDRAIL}


def test_parameters_of_the_entry_stand_under_the_clients() -> None:
    params = {
        "temperature": 0.2,
        "reasoning_effort": "high",
        "verbosity": "low",
        "stop": "x",
        "truncation": "auto",
    }
    found = native.with_defaults(
        {"temperature": 1, "reasoning": {"summary": "auto"}, "text": {"verbosity": "high"}}, params
    )
    assert found == {
        "temperature": 1,
        "reasoning": {"effort": "high", "summary": "auto"},
        "text": {"verbosity": "high"},
        "truncation": "auto",
    }


def test_only_reasoning_that_is_sealed_here_is_left_out() -> None:
    body = {"input": [FOREIGN, OURS, CALL, USER]}
    assert native.without_own_reasoning(body) == {"input": [FOREIGN, CALL, USER]}
    named = {"type": "reasoning", "id": "rs_3", "summary": [], "encrypted_content": None}
    readable = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}], "summary": []}
    assert native.without_own_reasoning({"input": [named, readable]}) == {"input": [readable]}
    assert native.without_own_reasoning({"input": "hi"}) == {"input": "hi"}


def test_a_picture_that_is_only_named_by_its_id_is_refused() -> None:
    picture = {"type": "image_generation_call", "id": "ig_1"}
    native.check({"input": [{**picture, "result": "iVBORw0K"}]})
    with pytest.raises(ProxyError) as refused:
        native.check({"input": [USER, picture]})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input[1]")


def test_a_repair_leaves_out_all_reasoning_and_the_ids_that_require_it() -> None:
    body = {"input": [FOREIGN, CALL, {"type": "compaction", "encrypted_content": "x"}, USER]}
    assert native.has_reasoning(body)
    call = {name: value for name, value in CALL.items() if name != "id"}
    assert native.without_reasoning(body) == {"input": [call, USER]}
    plain = {"input": [CALL, USER]}
    assert native.without_reasoning(plain) is plain


@each(
    "tool",
    (
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}},
        {"type": "image_generation", "input_image_mask": {"file_id": "f"}},
        {"type": "file_search", "vector_store_ids": ["v"]},
        {"type": "mcp", "connector_id": "c"},
        {"type": "shell", "environment": {"type": "container_reference", "container_id": "c"}},
    ),
)
def test_tools_with_stored_objects_are_refused_wherever_they_are_offered(tool: Any) -> None:
    nested = {"type": "namespace", "name": "n", "tools": [tool]}
    for body in ({"tools": [tool]}, {"tools": [nested]}, {"input": [{**TOOLS, "tools": [tool]}]}):
        with pytest.raises(ProxyError) as refused:
            native.check(body)
        assert refused.value.code == "unsupported_parameter"


def test_skills_of_the_client_are_not_stored() -> None:
    skills = [{"name": "s", "description": "d", "path": "/s"}]
    native.check({"tools": [{"type": "shell", "environment": {"type": "local", "skills": skills}}]})


def test_names_in_schemas_are_the_clients_own() -> None:
    native.check(
        {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {}}}}]}
    )


def test_tools_are_found_and_removed_in_namespaces_and_items() -> None:
    search = {"type": "web_search"}
    own = {"type": "function", "name": "f"}
    body = {
        "tools": [own, {"type": "namespace", "name": "n", "tools": [search, own]}],
        "input": [TOOLS, USER],
        "tool_choice": search,
    }
    assert [tool["type"] for tool in native.tools(body)].count("web_search") == 2
    left = native.without_tools(body, lambda tool: tool.get("type") == "web_search")
    assert [tool["type"] for tool in native.tools(left)] == ["function", "namespace", "function"]
    assert "tool_choice" not in left


@given(BODIES)
def test_edits_are_total(body: dict[str, Any]) -> None:
    for policy in ("keep", "drop"):
        guarded = native.guarded(body, GUARDRAIL, policy)
        assert guarded["instructions"].startswith(GUARDRAIL)
        assert guarded["store"] is False
    native.with_defaults(body, {"reasoning_effort": "low", "verbosity": "low", "user": "u"})
    edited = native.without_reasoning(native.without_own_reasoning(body))
    assert not native.has_reasoning(edited)
    native.without_tools(body, lambda tool: isinstance(tool, dict))
    list(native.tools(body))
    with suppress(ProxyError):
        native.check(body)
