"""Cache marks in translated requests to Anthropic: where they are, and that earlier turns keep their bytes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.providers.anthropic import adapter as anthropic
from tests.support.builders import chat, deployment
from tests.support.dialects.anthropic_rules import check, marked_blocks

SYSTEM = {"role": "system", "content": "Only code. " * 400}
MARK = {"type": "ephemeral"}
MODELS = ("claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-5-5")
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")
]


def sent(messages: list[Any], model: str = MODELS[0], *, entry: Any = None, **params: Any) -> dict[str, Any]:
    """The body that is sent, which Anthropic accepts."""
    here = deployment(**{"provider": "anthropic", "model": model, "base_url": None, **(entry or {})})
    found = anthropic.to_request(chat(messages=[SYSTEM, *messages], params=params), here)
    body: dict[str, Any] = orjson.loads(found.body)
    check(body, found.headers["anthropic-version"])
    return body


def user(content: Any = "hello") -> dict[str, Any]:
    return {"role": "user", "content": content}


def called(number: int) -> list[Any]:
    """A turn that calls a tool, and its result."""
    one = {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": "Let me look.", "tool_calls": [one]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": f"result {number}"},
    ]


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: unmarked(one) for name, one in value.items() if name != "cache_control"}
    return [unmarked(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("model", MODELS)
def test_tools_system_and_the_last_two_user_turns_are_marked(model: str) -> None:
    body = sent([user("one"), said("two"), user("three"), *called(1)], model, tools=TOOLS)
    assert body["tools"][-1] == {"name": "g", "input_schema": {"type": "object"}, "cache_control": MARK}
    assert body["system"] == [{"type": "text", "text": SYSTEM["content"], "cache_control": MARK}]
    assert [len(marked_blocks({"messages": [turn]})) for turn in body["messages"]] == [0, 0, 1, 0, 1]
    assert body["messages"][-1]["content"][-1]["type"] == "tool_result"
    assert len(marked_blocks(body)) == 4


def test_a_first_turn_is_marked() -> None:
    body = sent([user()])
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": MARK}]}
    ]
    assert len(marked_blocks(body)) == 2


TURNS = st.lists(st.sampled_from(["user", "tool", "picture", "late"]), min_size=1, max_size=8)


@given(TURNS, st.sampled_from(MODELS), st.booleans())
def test_each_request_begins_with_the_bytes_of_the_one_before(
    kinds: list[str], model: str, tools: bool
) -> None:
    """All but the marks, which move on; a mark of the one before is on a turn that is still marked."""
    picture = {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}}
    talk: list[Any] = []
    before: dict[str, Any] | None = None
    more = {"tools": TOOLS} if tools or {"tool", "late"} & {*kinds} else {}
    for number, kind in enumerate(kinds):
        match kind:
            case "user":
                talk += [user(f"question {number}")]
            case "picture":
                talk += [user([{"type": "text", "text": "what is this?"}, picture])]
            case "late" if model == "claude-opus-5-5":
                talk += [user("question"), {"role": "system", "content": f"reminder {number}"}]
            case _:
                talk += [user("call it"), *called(number)]
        body = sent(talk, model, **more)
        assert 2 <= len(marked_blocks(body)) <= 4
        if before is not None:
            earlier = before["messages"]
            assert unmarked(body["messages"])[: len(earlier)] == unmarked(earlier)
            assert body["system"] == before["system"]
            assert body.get("tools") == before.get("tools")
            last = max(place for place, turn in enumerate(earlier) if turn["role"] == "user")
            if kind in ("user", "picture"):
                assert body["messages"][last] == earlier[last]
        before = body
        talk += [said(f"answer {number}")]


def test_small_prompts_and_other_servers_get_no_marks() -> None:
    small = deployment(provider="anthropic", model=MODELS[0], base_url=None)
    found = orjson.loads(anthropic.to_request(chat(messages=[user()]), small).body)
    assert found["messages"] == [user()]
    assert not marked_blocks(sent([user()], entry={"cache_prompts": False}))
    other = deployment(provider="anthropic", model="local-model", base_url="http://127.0.0.1:1")
    found = orjson.loads(anthropic.to_request(chat(messages=[SYSTEM, user()]), other).body)
    assert not marked_blocks(found)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_clients_own_marks_are_kept_up_to_four(count: int) -> None:
    parts = [{"type": "text", "text": f"part {n}", "cache_control": MARK} for n in range(count)]
    marked = marked_blocks(sent([user(parts)], tools=TOOLS))
    assert [block["text"] for block in marked] == [part["text"] for part in parts][-4:]


def test_automatic_marks_count_as_one() -> None:
    parts = [{"type": "text", "text": f"part {n}", "cache_control": MARK} for n in range(4)]
    body = sent([user(parts)], cache_control=MARK)
    assert body["cache_control"] == MARK
    assert len(marked_blocks(body)) == 3
    assert not marked_blocks(sent([user()], cache_control=MARK))


def test_a_mark_inside_a_result_becomes_the_results_own() -> None:
    call, result = called(1)
    hour = {"type": "ephemeral", "ttl": "1h"}
    result = {**result, "content": [{"type": "text", "text": "found", "cache_control": hour}]}
    block = sent([user(), call, result])["messages"][-1]["content"][0]
    assert (block["content"], block["cache_control"]) == ([{"type": "text", "text": "found"}], hour)
