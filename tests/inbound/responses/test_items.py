"""Input items: what each becomes, how they are folded into messages, and what is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.openai_format.request import InferenceRequest
from tests.inbound.responses.answers import chunk, encoder, events_in
from tests.support.cases import each

SEALS = Seals(b"k" * 32, "project")
PNG = "data:image/png;base64,iVBORw0KGgo="


def parse(items: Any, seals: Seals | None = None) -> InferenceRequest:
    return RESPONSES.parse(orjson.dumps({"model": "m", "input": items}), dict, "req_1", 0, seals)


def messages(*items: Any, seals: Seals | None = None) -> list[Any]:
    return list(parse(list(items), seals).messages)


def user(*parts: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(parts)}


def function_call(call_id: str = "c", name: str | None = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}", **more}


def output(value: Any, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": "c", "output": value}


def called(name: str, arguments: str, call_id: str = "c") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def reasoning(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}], **more}


HI = {"role": "user", "content": "Hi"}


def test_a_string_is_a_message_of_the_user() -> None:
    assert parse("Hi").messages == [HI]


@each("role", ["user", "system", "developer"])
def test_a_role_stays_with_or_without_a_type(role: str) -> None:
    assert messages({"role": role, "content": "Hi"}) == [{"role": role, "content": "Hi"}]
    assert messages({"type": "message", "role": role, "content": "Hi"}) == [{"role": role, "content": "Hi"}]


@each(
    ("part", "expected"),
    [
        (
            {"type": "input_image", "image_url": PNG},
            {"type": "image_url", "image_url": {"url": PNG}},
        ),
        (
            {"type": "input_image", "image_url": PNG, "detail": "low", "file_id": None},
            {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        ),
        (
            {"type": "input_image", "image_url": PNG, "detail": "original"},
            {"type": "image_url", "image_url": {"url": PNG}},
        ),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
            {
                "type": "file",
                "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"},
            },
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
        ),
        (
            {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {}},
            {"type": "text", "text": "x", "prompt_cache_breakpoint": {}},
        ),
    ],
)
def test_a_part_becomes_the_part_of_a_chat(part: dict[str, Any], expected: dict[str, Any]) -> None:
    text = {"type": "input_text", "text": "Look:"}
    in_chat = {"type": "text", "text": "Look:"}
    assert messages(user(text, part))[0]["content"] == [in_chat, expected]
    assert messages(function_call(), output([text, part]))[1]["content"] == [in_chat, expected]


def test_texts_alone_become_one_string() -> None:
    parts = [{"type": kind, "text": kind} for kind in ("input_text", "text")]
    assert messages(user(*parts)) == [{"role": "user", "content": "input_text\n\ntext"}]
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert messages(HI, refusal)[1] == {"role": "assistant", "content": "No."}


@each(
    ("item", "expected"),
    [
        (function_call(), called("f", "{}")),
        (function_call(arguments=None), called("f", "{}")),
        (function_call(namespace="mcp__cal"), called("mcp__cal__f", "{}")),
        (function_call(namespace="functions"), called("f", "{}")),
        (function_call(namespace=None), called("f", "{}")),
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": 'a "b"'},
            called("apply_patch", '{"input":"a \\"b\\""}'),
        ),
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "exec", "namespace": "n", "input": ""},
            called("n__exec", '{"input":""}'),
        ),
        (
            {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"query": "q"}},
            called("tool_search", '{"query":"q"}'),
        ),
        (
            {
                "type": "local_shell_call",
                "call_id": "c",
                "action": {"type": "exec", "command": ["ls"], "env": {}},
            },
            called("local_shell", '{"command":["ls"],"env":{}}'),
        ),
        (
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"], "timeout_ms": None}},
            called("shell", '{"commands":["ls"]}'),
        ),
        (
            {
                "type": "apply_patch_call",
                "call_id": "c",
                "operation": {"type": "delete_file", "path": "a"},
                "status": "completed",
            },
            called("apply_patch", '{"operation":{"type":"delete_file","path":"a"}}'),
        ),
    ],
)
def test_a_call_becomes_a_call_of_the_assistant(item: dict[str, Any], expected: dict[str, Any]) -> None:
    assert messages(HI, item)[1:] == [{"role": "assistant", "content": None, "tool_calls": [expected]}]


@each(
    ("item", "expected"),
    [
        (output("done"), "done"),
        (output([{"type": "input_text", "text": "done"}]), "done"),
        (output(""), ""),
        (output(None), ""),
        (output("done", "custom_tool_call_output"), "done"),
        (output('{"output":"x"}', "local_shell_call_output"), '{"output":"x"}'),
        (
            output(
                [
                    {"stdout": "a\n", "stderr": "b", "outcome": {"type": "exit", "exit_code": 1}},
                    {"stdout": "", "stderr": "", "outcome": {"type": "timeout"}},
                ],
                "shell_call_output",
            ),
            "a\n\nb\nExit code: 1\n\nTimed out.",
        ),
        ({"type": "apply_patch_call_output", "call_id": "c", "status": "failed"}, "failed"),
        (
            {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "No such file"},
            "No such file",
        ),
        ({"type": "tool_search_output", "call_id": "c", "tools": []}, "Loaded tools: none"),
    ],
)
def test_an_output_becomes_a_message_of_the_tool(item: dict[str, Any], expected: str) -> None:
    assert messages(function_call(), item)[1] == {"role": "tool", "tool_call_id": "c", "content": expected}


def test_an_assistants_items_in_a_row_are_one_message() -> None:
    found = messages(
        HI,
        reasoning("Hm."),
        {"role": "assistant", "content": "I look."},
        {"role": "assistant", "content": "Twice."},
        function_call("a"),
        function_call("b"),
        output("done"),
        reasoning("So."),
        {"role": "assistant", "content": "Done."},
    )
    assert found[1] == {
        "role": "assistant",
        "content": "I look.\n\nTwice.",
        "reasoning_content": "Hm.",
        "tool_calls": [called("f", "{}", "a"), called("f", "{}", "b")],
    }
    assert found[3] == {"role": "assistant", "content": "Done.", "reasoning_content": "So."}


def test_text_or_reasoning_after_calls_begins_a_new_message() -> None:
    found = messages(HI, function_call("a"), {"role": "assistant", "content": "And"}, function_call("b"))
    assert [message.get("content") for message in found[1:]] == [None, "And"]
    found = messages(HI, function_call("a"), reasoning("Hm."), function_call("b"))
    assert [message.get("reasoning_content") for message in found[1:]] == [None, "Hm."]


def test_reasoning_alone_has_content_that_providers_accept() -> None:
    assert messages(reasoning("Hm."), HI) == [
        {"role": "assistant", "content": " ", "reasoning_content": "Hm."},
        HI,
    ]


def test_an_empty_turn_of_the_assistant_is_left_out() -> None:
    empty = {"role": "assistant", "content": []}
    assert messages(HI, empty, {"type": "reasoning", "id": "rs", "summary": []}, HI) == [HI, HI]


@each(
    "kind",
    [
        *("web_search_call", "file_search_call", "computer_call", "code_interpreter_call", "compaction"),
        *("image_generation_call", "mcp_call", "mcp_list_tools", "mcp_approval_request", "program"),
        *("compaction_trigger", "configuration_update", "context_compaction", "something_new"),
    ],
)
def test_items_of_providers_are_left_out_and_reported(kind: str) -> None:
    request = parse([HI, {"type": kind, "id": "x", "status": "completed"}])
    assert request.messages == [HI]
    assert request.ignored == (f"input.{kind}",)


def test_a_search_that_the_provider_ran_is_left_out_but_its_tools_are_offered() -> None:
    tool = {"type": "function", "name": "f", "parameters": {}}
    search: dict[str, Any] = {
        "type": "tool_search_call",
        "call_id": None,
        "execution": "server",
        "arguments": {},
    }
    request = parse([HI, search, {"type": "tool_search_output", "call_id": None, "tools": [tool]}])
    assert request.messages == [HI]
    assert [one["function"]["name"] for one in request.params["tools"]] == ["f"]


@each(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[1]"),
        ({"id": "msg_1"}, "input[1]"),
        (user({"type": "input_image", "file_id": "file_1"}), "input[1].content[0].file_id"),
        (user({"type": "input_file", "file_id": "file_1"}), "input[1].content[0].file_id"),
        (user({"type": "input_file", "file_url": "http://10.0.0.1/"}), "input[1].content[0].file_url"),
        (output([{"type": "input_image", "file_id": "file_1"}]), "input[1].output[0].file_id"),
        ({"type": "code_interpreter_call", "container_id": "cntr_1"}, "input[1].container_id"),
        (
            {"type": "shell_call", "call_id": "c", "action": {}, "environment": {"container_id": "cntr_1"}},
            "input[1].environment.container_id",
        ),
        ({"type": "computer_call_output", "output": {"file_id": "file_1"}}, "input[1].output.file_id"),
    ],
)
def test_references_to_stored_objects_are_refused(item: dict[str, Any], param: str) -> None:
    with pytest.raises(ProxyError) as refused:
        messages(HI, item)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)
    assert "stores nothing" in refused.value.message


@each(
    ("item", "param"),
    [
        ("text", "input[0]"),
        ({}, "input[0].type"),
        ({"type": 5}, "input[0].type"),
        ({"role": "critic", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": 5}, "input[0].content"),
        (user("text"), "input[0].content[0]"),
        (user({"type": "input_text"}), "input[0].content[0].text"),
        (user({"type": "input_image"}), "input[0].content[0].image_url"),
        (function_call(name=None), "input[0].name"),
        (function_call(call_id=""), "input[0].call_id"),
        (function_call(arguments={}), "input[0].arguments"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"type": "tool_search_output", "call_id": "c", "tools": [5]}, "input[0].tools[0]"),
        ({"type": "compaction", "encrypted_content": "x"}, "input"),
    ],
)
def test_a_wrong_item_is_refused_with_its_place(item: Any, param: str) -> None:
    with pytest.raises(ProxyError) as refused:
        messages(item)
    assert refused.value.status == 400
    assert refused.value.param == param


# --- reasoning that clients keep -----------------------------------------------------------------------------

BLOCK = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
REDACTED = {"type": "redacted_thinking", "data": "xyz"}
WANTED = {"model": "m", "stream": True, "input": "Hi", "include": ["reasoning.encrypted_content"]}


def kept(body: dict[str, Any] = WANTED) -> dict[str, Any]:
    """The reasoning item of an answer of Claude."""
    writer = encoder(body, SEALS)
    chunks = [
        chunk(reasoning_content="Hm."),
        chunk(thinking_blocks=[BLOCK]),
        chunk(thinking_blocks=[REDACTED]),
        chunk(content="Yes."),
        chunk(finish="stop"),
    ]
    item: dict[str, Any] = events_in(writer.events(chunks, ended=True))[-1]["response"]["output"][0]
    return item


def test_signed_thinking_comes_back_with_its_item() -> None:
    answer = {"role": "assistant", "content": "Yes."}
    assert messages(HI, kept(), answer, seals=SEALS)[1] == {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_content": "Hm.",
        "thinking_blocks": [BLOCK, REDACTED],
    }


def test_reasoning_is_sealed_only_for_clients_that_ask_for_it() -> None:
    assert "encrypted_content" not in kept({**WANTED, "include": []})
    assert kept({**WANTED, "include": []})["summary"] == [{"type": "summary_text", "text": "Hm."}]


@each("change", ["foreign", "other project", "changed"])
def test_reasoning_that_was_not_sealed_here_is_text_alone(change: str) -> None:
    item = kept()
    sealed = item["encrypted_content"]
    if change == "foreign":
        item["encrypted_content"] = "gAAAAABm"
    elif change == "changed":
        item["encrypted_content"] = sealed[:-8] + ("A" if sealed[-8] != "A" else "B") + sealed[-7:]
    seals = Seals(SEALS.key, "other") if change == "other project" else SEALS
    found = messages(HI, item, {"role": "assistant", "content": "Yes."}, seals=seals)[1]
    assert found == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
