"""Messages and blocks of the Messages API in OpenAI's form, block by block."""

from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.messages.thinking import signature_of
from tests.inbound.messages.claude_code import (
    EPHEMERAL,
    PDF,
    PNG,
    SEALS,
    SYSTEM,
    TURN,
    image,
    parsed,
    pdf,
    result,
    text,
    use,
)
from tests.support.cases import each

PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
MANUAL = {"type": "file", "file": {"filename": "m.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
CALL = {"role": "assistant", "content": [use("c1", "f", a=1)]}


def messages(*turns: dict[str, Any], **fields: Any) -> list[Any]:
    return list(parsed(messages=list(turns), **fields).messages)


def user(*blocks: dict[str, Any]) -> Any:
    """The content that a user turn of these blocks becomes."""
    [message] = messages({"role": "user", "content": list(blocks)})
    assert message["role"] == "user"
    return message["content"]


def answered(*blocks: dict[str, Any]) -> list[Any]:
    """What a user turn after a call becomes."""
    return messages(CALL, {"role": "user", "content": list(blocks)})[1:]


def assistant(*blocks: dict[str, Any]) -> list[Any]:
    return messages({"role": "assistant", "content": list(blocks)}, {"role": "user", "content": "go on"})[:-1]


def test_the_turn_of_claude_code() -> None:
    roles = [message["role"] for message in parsed(TURN).messages]
    assert roles == [
        *("system", "user", "system", "assistant", "tool", "tool", "user"),
        *("assistant", "tool", "user"),
    ]


@each(
    ("system", "content"),
    [
        ("Be brief.", "Be brief."),
        ([text("Be brief.")], "Be brief."),
        ([text("a"), text("b")], [text("a"), text("b")]),
        (SYSTEM, SYSTEM[1:]),
        ([SYSTEM[0], text("a")], "a"),
        (f"{SYSTEM[0]['text']} Be brief.", f"{SYSTEM[0]['text']} Be brief."),
        ([text(" "), text("a"), {"type": "new"}], "a"),
    ],
)
def test_system_prompts_keep_their_marks_and_lose_the_billing_header(system: Any, content: Any) -> None:
    first, *_ = messages({"role": "user", "content": "hi"}, system=system)
    assert first == {"role": "system", "content": content}


@pytest.mark.parametrize("system", [SYSTEM[:1], SYSTEM[0]["text"], "", [], None])
def test_an_empty_system_prompt_is_left_out(system: Any) -> None:
    assert [m["role"] for m in messages({"role": "user", "content": "hi"}, system=system)] == ["user"]


@each(
    ("blocks", "content"),
    [
        ([text("hi")], "hi"),
        ([text(" "), text("hi")], "hi"),
        ([text("a"), text("b", **EPHEMERAL)], [text("a"), text("b", **EPHEMERAL)]),
        ([image()], [PICTURE]),
        (
            [{"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}],
            [{"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}],
        ),
        ([pdf(title="m.pdf", **EPHEMERAL)], [{**MANUAL, **EPHEMERAL}]),
        (
            [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}],
            "words",
        ),
        (
            [{"type": "document", "title": "T", "source": {"type": "text", "data": "words"}}],
            [text("T"), text("words")],
        ),
        ([{"type": "document", "source": {"type": "content", "content": "words"}}], "words"),
        (
            [{"type": "document", "source": {"type": "content", "content": [text("a"), image()]}}],
            [text("a"), PICTURE],
        ),
        (
            [
                {
                    "type": "document",
                    "title": "m.pdf",
                    "source": {"type": "url", "url": "https://a.example/m.pdf"},
                }
            ],
            [{"type": "file", "file": {"filename": "m.pdf", "file_url": "https://a.example/m.pdf"}}],
        ),
        (
            [
                {
                    "type": "search_result",
                    "title": "T",
                    "source": "https://a.example",
                    "content": [text("found")],
                }
            ],
            "T (https://a.example)\nfound",
        ),
        ([text("hi"), {"type": "container_upload", "file_id": "f"}], "hi"),
    ],
)
def test_blocks_of_users(blocks: Any, content: Any) -> None:
    assert user(*blocks) == content


@each(
    ("blocks", "tools", "rest"),
    [
        ([result("c1", "out")], [{"content": "out"}], None),
        ([result("c1", None)], [{"content": ""}], None),
        ([result("c1", [])], [{"content": ""}], None),
        ([result("c1", [text("a"), text("b")])], [{"content": [text("a"), text("b")]}], None),
        (
            [result("c1", [text("a"), image(), pdf(title="m.pdf")])],
            [{"content": [text("a"), PICTURE, MANUAL]}],
            None,
        ),
        ([result("c1", "no", is_error=True)], [{"content": "no", "is_error": True}], None),
        ([result("c1", "yes", is_error=False)], [{"content": "yes"}], None),
        ([result("c1", "out", **EPHEMERAL)], [{"content": "out", **EPHEMERAL}], None),
        ([result("c1", [text("out", **EPHEMERAL)])], [{"content": "out", **EPHEMERAL}], None),
        (
            [result("c1", [{"type": "tool_reference", "tool_name": "W"}])],
            [{"content": "Tool loaded: W"}],
            None,
        ),
        (
            [text("first"), result("c1", "1"), result("c2", "2")],
            [{"content": "1"}, {"content": "2"}],
            "first",
        ),
    ],
)
def test_results_are_messages_before_the_rest_of_their_turn(blocks: Any, tools: Any, rest: Any) -> None:
    found = answered(*blocks)
    expected: list[Any] = [
        {"role": "tool", "tool_call_id": f"c{at}", **fields} for at, fields in enumerate(tools, 1)
    ]
    assert found == [*expected, *([{"role": "user", "content": rest}] if rest else [])]


def test_calls_of_assistants() -> None:
    name = "mcp__" + "x" * 80
    [message] = assistant(text("I look."), use("c1", "f", a="é"), {**use("c2", name), **EPHEMERAL})
    first, second = message["tool_calls"]
    assert message["content"] == "I look."
    assert first == {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":"é"}'}}
    assert second["function"]["name"].startswith("mcp__xxx")
    assert len(second["function"]["name"]) == 64
    assert second["cache_control"] == EPHEMERAL["cache_control"]


def test_signed_thinking_is_kept_whole() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "Emw"},
    ]
    assert assistant(*blocks, text("a")) == [{"role": "assistant", "content": "a", "thinking_blocks": blocks}]


@each(
    "block",
    [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "thinking", "thinking": "hm"},
        {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")},
        {"type": "thinking", "thinking": "", "signature": signature_of("hm", SEALS)},
    ],
)
def test_thinking_that_no_provider_signed_is_reasoning(block: dict[str, Any]) -> None:
    assert assistant(block, text("a")) == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]


SEALED = signature_of("hm", SEALS)


@each(
    "signature",
    ["clp1.", "clp1.!", SEALED[:-1], SEALED + "A", signature_of("hm", SEALS._replace(project="another"))],
)
def test_a_signature_that_was_not_made_for_this_project_has_no_text(signature: str) -> None:
    block = {"type": "thinking", "thinking": "", "signature": signature}
    assert assistant(block, text("a")) == [{"role": "assistant", "content": "a"}]


@each(
    "blocks",
    [
        [],
        [text("")],
        [{"type": "thinking", "thinking": "hm", "signature": "EqQB"}],
        [{"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}],
        [{"type": "fallback"}],
    ],
)
def test_assistant_turns_without_content_are_left_out(blocks: Any) -> None:
    assert assistant(*blocks) == []


def test_a_compaction_is_text() -> None:
    assert assistant({"type": "compaction", "content": "summary"}) == [
        {"role": "assistant", "content": "summary"}
    ]


def test_blocks_of_server_tools_are_left_out_and_reported() -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        text("Found."),
    ]
    request = parsed(
        messages=[{"role": "assistant", "content": blocks}, {"role": "user", "content": "go on"}]
    )
    assert request.messages[0] == {"role": "assistant", "content": "Found."}
    assert request.ignored == ("messages.server_tool_use", "messages.web_search_tool_result")


# --- system messages in the conversation ---------------------------------------------------------------------


def test_system_messages_stay_where_they_stand() -> None:
    found = messages(
        {"role": "user", "content": "a"}, {"role": "system", "content": "s"}, {"role": "user", "content": "b"}
    )
    assert [m["content"] for m in found] == ["a", "s", "b"]


def test_a_system_message_for_one_turn_is_left_out_later() -> None:
    hint = {"role": "system", "content": "s", "clear_at": "next_user_message"}
    question = {"role": "user", "content": "a"}
    assert len(messages(question, hint)) == 2
    assert len(messages(question, hint, question)) == 2
    assert len(messages(question, {**hint, "clear_at": "never"}, question)) == 3


def test_a_system_message_can_remove_a_tool() -> None:
    tools = [{"name": name, "input_schema": {}} for name in ("f", "g")]
    removal = {"role": "system", "content": [{"type": "tool_removal", "tool_name": "f"}]}
    request = parsed(messages=[{"role": "user", "content": "a"}, removal], tools=tools)
    assert [one["function"]["name"] for one in request.params["tools"]] == ["g"]
    assert len(request.messages) == 1


# --- refused -------------------------------------------------------------------------------------------------


@each(
    ("block", "param"),
    [
        ({"type": "text"}, "messages[0].content[0].text"),
        ({"type": "image"}, "messages[0].content[0].source"),
        (
            {"type": "image", "source": {"type": "base64", "data": "a"}},
            "messages[0].content[0].source.media_type",
        ),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "messages[0].content[0].source"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, "messages[0].content[0].source"),
        ({"type": "tool_result", "content": "a"}, "messages[0].content[0].tool_use_id"),
        (result("c1", 1), "messages[0].content[0].content"),
    ],
)
def test_incomplete_blocks_and_uploaded_files_are_refused(block: dict[str, Any], param: str) -> None:
    with pytest.raises(ProxyError) as caught:
        user(block)
    assert (caught.value.status, caught.value.param) == (400, param)
