"""Tool calls of a stream, however an upstream numbers and names them, are whole calls to the strictest client."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.common.tool_calls import MAX_TOOL_CALLS
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import fold, read
from tests.support.dialogues import chunk, sse

HERE = deployment(provider="openai_compatible")
STREAMED = chat(stream=True, include_usage=True)


def part(name: Any = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    reported = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in reported.items() if value is not None}}


def heard(*deltas: list[dict[str, Any]], finish: str = "tool_calls") -> list[dict[str, Any]]:
    """The calls that a strict client makes of a stream of these fragments."""
    pieces = [chunk({"tool_calls": calls}) for calls in deltas]
    events, complete = read(
        ADAPTERS["openai_compatible"], [sse(*pieces, chunk({}, finish), b"[DONE]")], STREAMED, HERE
    )
    assert complete
    begun: set[int] = set()
    for event in events:
        for choice in orjson.loads(event.body)["choices"]:
            for call in choice["delta"].get("tool_calls", []):
                check_fragment(call, begun)
    found = fold(events)["choices"][0]["message"].get("tool_calls", [])
    assert len({call["id"] for call in found}) == len(found)
    assert all(isinstance(orjson.loads(call["function"]["arguments"]), dict) for call in found)
    return found  # type: ignore[no-any-return]  # JSON


def check_fragment(call: dict[str, Any], begun: set[int]) -> None:
    """As the AI SDK has it: the first fragment has all, the others only arguments."""
    assert type(call["index"]) is int
    assert isinstance(call["function"]["arguments"], str)
    if call["index"] in begun:
        assert call.keys() == {"index", "function"}
        assert call["function"].keys() == {"arguments"}
        return
    assert call["index"] == len(begun)
    begun.add(call["index"])
    assert call["id"]
    assert isinstance(call["id"], str)
    assert call["type"] == "function"
    assert call["function"]["name"]


def names_and_arguments(calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


TWO = [("f", '{"x":1}'), ("g", '{"y":2}')]
AGAIN = [("f", '{"x":1}'), ("f", '{"x":2}')]


@pytest.mark.parametrize(
    ("deltas", "wanted"),
    [
        pytest.param(
            [
                [part("f", "", index=0, id="a", type="function")],
                [part(None, '{"x":1}', index=0)],
                [part("g", "", index=0, id="b", type="function")],
                [part(None, '{"y":2}', index=0)],
            ],
            TWO,
            id="every index is 0",
        ),
        pytest.param(
            [
                [part("f", "", index=0, id="", type="")],
                [part(None, '{"x":1}', index=0, id="", type=None)],
                [part("g", "", index=0, id=None)],
                [part("", '{"y":2}', index=0, id=None)],
            ],
            TWO,
            id="every index is 0 and ids are empty",
        ),
        pytest.param(
            [
                [part("f", "", id="a")],
                [part(None, '{"x":1}')],
                [part("g", "", id="b")],
                [part(None, '{"y":2}')],
            ],
            TWO,
            id="no index",
        ),
        pytest.param(
            [
                [part("f", '{"x"', index=0, id="a", type="function")],
                [part("f", ":1}", index=0, id="a", type="function")],
                [part("g", '{"y"', index=1, id="b", type="function")],
                [part("g", ":2}", index=1, id="b", type="function")],
            ],
            TWO,
            id="names and ids in every fragment",
        ),
        pytest.param(
            [
                [part("f", '{"x"', index=0)],
                [part("f", ":1}", index=0)],
                [part("f", '{"x"', index=0)],
                [part("f", ":2}", index=0)],
                [part("f", "", index=0)],
            ],
            AGAIN,
            id="one name in every fragment, no ids, every index is 0",
        ),
        pytest.param(
            [[part("f", '{"x":1}'), part("f", '{"x":2}')]], AGAIN, id="two calls of one function at once"
        ),
        pytest.param(
            [
                [part("f", "", index=0, id="same"), part("f", "", index=0, id="same")],
                [part(None, '{"x":1}', index=0), part(None, '{"x":2}', index=0)],
            ],
            [("f", '{"x":1}'), ("f", '{"x":2}')],
            id="told apart only by their place",
        ),
        pytest.param(
            [
                [part("f", "", index=0, id="call_0")],
                [part(None, '{"x":1}', index=0, id="call_0")],
                [part("g", "", index=1, id="call_0")],
                [part(None, '{"y":2}', index=1, id="call_0")],
            ],
            TWO,
            id="one id for all",
        ),
        pytest.param(
            [
                [part("f", "", index=0, id="a")],
                [part(None, '{"x":', index=0, id="r1")],
                [part(None, "1}", index=0, id="r2")],
            ],
            [("f", '{"x":1}')],
            id="another id in every fragment",
        ),
        pytest.param(
            [
                [{"index": 0, "id": "a", "type": "function"}],
                [part(None, '{"x"', index=0)],
                [part("f", ":1}", index=0)],
            ],
            [("f", '{"x":1}')],
            id="the name comes late",
        ),
        pytest.param(
            [
                [part("f", "", index=1, id="a"), part("g", "", index=5, id="b")],
                [part(None, '{"y":2}', index=5)],
                [part(None, '{"x":1}', index=1)],
            ],
            TWO,
            id="interleaved, with gaps",
        ),
        pytest.param(
            [[part("f", {"x": 1}, index="0", id=7)], [part("g", {"y": 2}, index=1.0, id=8)]],
            [("f", '{"x":1}'), ("g", '{"y":2}')],
            id="arguments as objects, numbers of other kinds",
        ),
        pytest.param([[part("f", index=0, id="a")]], [("f", "{}")], id="no arguments at all"),
        pytest.param([[part("", "", index=0)], []], [], id="a placeholder"),
        pytest.param(
            [[{"index": 0, "id": "a", "function": None}], [part("f", "{}", index=0)]],
            [("f", "{}")],
            id="null",
        ),
    ],
)
def test_every_call_has_its_own_arguments(
    deltas: list[list[dict[str, Any]]], wanted: list[tuple[str, str]]
) -> None:
    assert names_and_arguments(heard(*deltas)) == wanted


def test_unique_upstream_ids_are_kept() -> None:
    calls = heard(
        [part("f", "{}", index=0, id="a")], [part("g", "{}", index=0, id="b")], [part("h", "{}", index=1)]
    )
    assert [call["id"] for call in calls] == ["a", "b", "call_req_1_0_2"]


@each(
    "calls",
    [
        {"index": 0},
        "f",
        [5],
        [{"index": 0, "function": "f"}],
        [part(5, "", index=0)],
        [part("f", 5, index=0)],
        [part(None, '{"x":1}', index=0)],
        [part("f", "{}")] * (MAX_TOOL_CALLS + 1),
    ],
)
def test_an_invalid_tool_call_fails_the_attempt(calls: Any) -> None:
    with pytest.raises(AttemptError):
        heard(calls)
    message = {"content": None, "tool_calls": calls}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    with pytest.raises(AttemptError):
        ADAPTERS["openai_compatible"].parse_response(orjson.dumps(body), chat(), HERE)


def test_truncated_arguments_are_not_completed() -> None:
    events, _ = read(
        ADAPTERS["openai_compatible"],
        [sse(chunk({"tool_calls": [part("f", "", index=0, id="a")]}), chunk({}, "length"), b"[DONE]")],
        STREAMED,
        HERE,
    )
    assert names_and_arguments(fold(events)["choices"][0]["message"]["tool_calls"]) == [("f", "")]


TEXTS = st.dictionaries(st.sampled_from("abc"), st.text(max_size=6) | st.integers(-9, 9), max_size=2).map(
    lambda found: orjson.dumps(found).decode()
)
CALLS = st.lists(st.tuples(st.sampled_from("fgh"), TEXTS), min_size=1, max_size=4)


@given(
    CALLS,
    st.sampled_from(["right", "zero", "none"]),
    st.sampled_from(["first", "every", "random"]),
    st.booleans(),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_every_encoding_of_consecutive_calls_is_equivalent(
    calls: list[tuple[str, str]], index: str, ids: str, named: bool, cuts: list[int]
) -> None:
    """Whatever the index is, ids on the first or on every fragment, names once or in every fragment."""
    deltas: list[list[dict[str, Any]]] = []
    for place, (name, arguments) in enumerate(calls):
        size = cuts[place % len(cuts)]
        pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        for nth, piece in enumerate(pieces):
            more: dict[str, Any] = {}
            if index != "none":
                more["index"] = place if index == "right" else 0
            if nth == 0 or ids == "every":
                more["id"] = f"id-{place}"
            elif ids == "random" and not named:
                more["id"] = f"id-{place}-{nth}"
            deltas.append([part(name if nth == 0 or named else None, piece, **more)])
    assert names_and_arguments(heard(*deltas)) == calls


WHOLE = [
    ([part("f", '{"x":1}', id=""), part("g", '{"y":2}', id=None, type="")], TWO),
    ([part("f", '{"x":1}', id="a", index=0), part("g", '{"y":2}', id="a", index=0)], TWO),
    ([part("f", {"x": 1}), part("g", '{"y":2}'), part("", "")], TWO),
    ([part("f", "", id="a"), part("g", id="b")], [("f", "{}"), ("g", "{}")]),
]


@pytest.mark.parametrize(("calls", "wanted"), WHOLE)
def test_every_call_of_a_plain_answer_has_its_own_arguments(
    calls: list[dict[str, Any]], wanted: list[tuple[str, str]]
) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    event = ADAPTERS["openai_compatible"].parse_response(orjson.dumps(body), chat(), HERE)
    choice = orjson.loads(event.body)["choices"][0]
    found = choice["message"]["tool_calls"]
    assert names_and_arguments(found) == wanted
    assert {call["type"] for call in found} == {"function"}
    assert len({call["id"] for call in found}) == len(found)
    assert choice["finish_reason"] == "tool_calls"
