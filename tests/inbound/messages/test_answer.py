"""Answers in Anthropic's form: what Anthropic's own client reads, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core import sse
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.inbound.messages.usage import usage_json
from codellama_proxy.openai_format.completion import event_of
from codellama_proxy.openai_format.request import InferenceRequest
from tests.inbound.messages.claude_code import SEALS, parsed, tool
from tests.support.anthropic_client import sdk
from tests.support.cases import each

if TYPE_CHECKING:
    from anthropic import Anthropic

LONG = "mcp__" + "long-name." * 9
REQUEST = parsed(stream=True, tools=[tool("f"), tool(LONG)])
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-2026"}
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def chunk(delta: Mapping[str, Any], reason: str | None = None) -> Event:
    body = {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return Event(orjson.dumps(body), content=bool(delta), finish_reason=reason)


def run(name: str, *texts: str) -> Event:
    """Chunks that arrived together, as one event."""
    bodies = [chunk({name: text}).body for text in texts]
    return Event(sse.BETWEEN.join(bodies), content=True, text="".join(texts))


def call(index: int, arguments: str = "", **begun: str) -> Event:
    function = {"name": begun["name"], "arguments": arguments} if begun else {"arguments": arguments}
    named = {"id": begun["id"], "type": "function"} if begun else {}
    return chunk({"tool_calls": [{"index": index, **named, "function": function}]})


USAGE_CHUNK = Event(orjson.dumps({**HEAD, "choices": [], "usage": USAGE}), usage_only=True)
ROLE = chunk({"role": "assistant", "content": ""})


def streamed(
    *events: Event, reason: str = "stop", request: InferenceRequest = REQUEST, ended: bool = True
) -> bytes:
    encoder = MESSAGES.encoder(request, SEALS)
    parts = [encoder.events([event], ended=False) for event in (ROLE, *events)]
    last = [chunk({}, reason), USAGE_CHUNK] if ended else []
    return b"".join([*parts, encoder.events(last, ended=ended)])


def frames(data: bytes) -> list[Any]:
    found = []
    for frame in data.removesuffix(b"\n\n").split(b"\n\n"):
        name, _, body = frame.partition(b"\n")
        found.append(orjson.loads(body.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
    return found


def client(data: bytes, kind: str) -> Anthropic:
    answer = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": kind}, content=data)
    )
    found: Anthropic = sdk().Anthropic(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=answer)
    )
    return found


ASKED: Any = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


def read(data: bytes) -> Any:
    """The message that Anthropic's client makes of a stream."""
    with client(data, "text/event-stream") as one, one.messages.stream(**ASKED) as stream:
        return stream.get_final_message()


def read_whole(body: bytes) -> Any:
    with client(body, "application/json") as one:
        return one.messages.create(**ASKED)


def whole(message: Mapping[str, Any], reason: str = "stop", request: InferenceRequest = REQUEST) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    body = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return orjson.loads(MESSAGES.encoder(request, SEALS).whole(event_of(body, orjson.dumps(body))))


# --- examples ------------------------------------------------------------------------------------------------


def test_the_events_of_a_text() -> None:
    found = frames(streamed(chunk({"content": "Hel"}), run("content", "lo", " é", "!")))
    assert [frame["type"] for frame in found] == [
        *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    start = found[0]["message"]
    assert (start["id"], start["model"], start["content"]) == ("msg_req_1", "m-2026", [])
    assert start["usage"]["input_tokens"] > 0
    assert [f["delta"]["text"] for f in found if f["type"] == "content_block_delta"] == ["Hel", "lo é!"]
    assert found[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 6,
            "cache_read_input_tokens": 4,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


def test_the_usage_at_the_beginning_is_the_upstreams_if_it_is_known() -> None:
    encoder = MESSAGES.encoder(REQUEST, SEALS)
    [start, _] = frames(encoder.events([ROLE._replace(usage=Usage(9, 1))], ended=False))
    assert start["message"]["usage"]["input_tokens"] == 9


def test_interleaved_calls_become_blocks_one_after_another() -> None:
    message = read(
        streamed(
            chunk({"content": "I look."}),
            call(0, '{"a"', id="c0", name="f"),
            call(1, '{"b"', id="c1", name="f"),
            call(0, ": 0}"),
            call(1, ": 1}"),
            reason="tool_calls",
        )
    )
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[1:]] == [{"a": 0}, {"b": 1}]
    assert message.stop_reason == "tool_use"


def test_a_complete_call_is_ended_when_the_next_begins() -> None:
    data = streamed(call(0, '{"a": 0}', id="c0", name="f"), call(1, '{"b"', id="c1", name="f"), ended=False)
    assert [frame["type"] for frame in frames(data)][-3:] == [
        *("content_block_stop", "content_block_start", "content_block_delta")
    ]


def test_a_call_without_arguments_has_no_deltas_and_an_empty_input() -> None:
    data = streamed(call(0, id="c0", name="f"), reason="tool_calls")
    assert not any(frame["type"] == "content_block_delta" for frame in frames(data))
    assert read(data).content[0].input == {}


@each("arguments", ["", "null", " "])
def test_no_arguments_in_other_words(arguments: str) -> None:
    assert read(streamed(call(0, arguments, id="c0", name="f"))).content[0].input == {}
    function = {"name": "f", "arguments": arguments}
    message = {"content": None, "tool_calls": [{"id": "c0", "type": "function", "function": function}]}
    assert whole(message)["content"][0]["input"] == {}


@each("arguments", ["ls -l", '["a"]', '"x"', "1"])
def test_arguments_that_are_no_object_are_kept_as_text(arguments: str) -> None:
    assert read(streamed(call(0, arguments, id="c0", name="f"))).content[0].input == {"_raw": arguments}


def test_tools_are_called_by_the_clients_names() -> None:
    wire = REQUEST.params["tools"][1]["function"]["name"]
    assert wire != LONG
    assert read(streamed(call(0, "{}", id="c0", name=wire))).content[0].name == LONG
    function = {"name": wire, "arguments": "{}"}
    message = {"content": None, "tool_calls": [{"id": "c0", "type": "function", "function": function}]}
    assert whole(message, "tool_calls")["content"][0]["name"] == LONG


def test_reasoning_is_a_thinking_block_with_one_signature_of_ours() -> None:
    data = streamed(
        chunk({"reasoning_content": "h"}), run("reasoning_content", "m", "."), chunk({"content": "a"})
    )
    signatures = [f for f in frames(data) if f.get("delta", {}).get("type") == "signature_delta"]
    thinking, text = read(data).content
    assert (thinking.thinking, text.text) == ("hm.", "a")
    assert thinking.signature.startswith("clp1.")
    assert len(signatures) == 1


def test_reasoning_after_text_is_a_block_of_its_own() -> None:
    data = streamed(chunk({"content": "a"}), chunk({"reasoning": "hm"}), chunk({"content": "b"}))
    assert [block.type for block in read(data).content] == ["text", "thinking", "text"]


def test_signed_blocks_of_the_provider_pass() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
    redacted = {"type": "redacted_thinking", "data": "Emw"}
    data = streamed(
        chunk({"reasoning_content": "hm"}),
        chunk({"thinking_blocks": [block]}),
        chunk({"thinking_blocks": [redacted]}),
        chunk({"content": "a"}),
    )
    blocks = [b.to_dict() for b in read(data).content]
    assert blocks[:2] == [block, redacted]
    message = {"content": "a", "reasoning_content": "hm", "thinking_blocks": [block, redacted]}
    assert whole(message)["content"] == [block, redacted, {"type": "text", "text": "a"}]


def test_a_signed_block_without_shown_text_is_a_block() -> None:
    block = {"type": "thinking", "thinking": "", "signature": "EqQB"}
    assert (
        read(streamed(chunk({"thinking_blocks": [block]}), chunk({"content": "a"}))).content[0].to_dict()
        == block
    )


def test_thinking_is_hidden_from_clients_that_omit_it_and_comes_back() -> None:
    request = parsed(stream=True, thinking={"type": "adaptive", "display": "omitted"})
    data = streamed(chunk({"reasoning_content": "hm é"}), chunk({"content": "a"}), request=request)
    block = read(data).content[0].to_dict()
    assert block["thinking"] == ""
    assert whole({"content": "a", "reasoning_content": "hm é"}, request=request)["content"][0] == block
    answered = [{"role": "assistant", "content": [block, {"type": "text", "text": "a"}]}]
    again = parsed(messages=[*answered, {"role": "user", "content": "go on"}])
    assert again.messages[0]["reasoning_content"] == "hm é"


@each(
    ("reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "end_turn"),  # without a call
        ("content_filter", "refusal"),
        ("something", "end_turn"),
    ],
)
def test_stop_reasons(reason: str, stop_reason: str) -> None:
    assert read(streamed(chunk({"content": "a"}), reason=reason)).stop_reason == stop_reason
    assert whole({"content": "a"}, reason)["stop_reason"] == stop_reason


def test_a_call_under_stop_is_tool_use_and_a_cut_one_is_max_tokens() -> None:
    assert read(streamed(call(0, "{}", id="c0", name="f"), reason="stop")).stop_reason == "tool_use"
    assert read(streamed(call(0, '{"a', id="c0", name="f"), reason="length")).stop_reason == "max_tokens"


def test_a_refusal_is_a_text_with_its_explanation() -> None:
    message = read(streamed(chunk({"refusal": "I can't."}), reason="stop"))
    assert (message.stop_reason, message.content[0].text) == ("refusal", "I can't.")
    found = whole({"content": None, "refusal": "I can't."})
    assert found["stop_details"] == {"type": "refusal", "category": None, "explanation": "I can't."}
    assert found["content"] == [{"type": "text", "text": "I can't."}]


def test_content_in_parts_is_read() -> None:
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
    ]
    assert [block["type"] for block in whole({"content": content})["content"]] == ["thinking", "text"]


def test_an_empty_answer() -> None:
    assert read(streamed()).content == []
    assert whole({"content": ""})["content"] == []


def test_raw_frames_pass_as_they_are() -> None:
    encoder = MESSAGES.encoder(REQUEST, SEALS)
    events = [chunk({"content": "a"})._replace(raw=b"event: x\n"), Event(b"", raw=b"data: {}\n\n")]
    assert encoder.events(events, ended=False) == b"event: x\ndata: {}\n\n"
    assert encoder.events([USAGE_CHUNK], ended=True) == b""
    assert MESSAGES.encoder(REQUEST, SEALS).whole(Event(b"{}", raw=b'{"id": 1}')) == b'{"id": 1}'


def test_a_plain_answer_is_read_by_the_client() -> None:
    function = {"name": "f", "arguments": '{"a": 1}'}
    message = read_whole(
        orjson.dumps(
            whole(
                {
                    "content": "a",
                    "reasoning_content": "hm",
                    "tool_calls": [{"id": "c0", "type": "function", "function": function}],
                },
                "tool_calls",
            )
        )
    )
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.usage.input_tokens == 10
    assert message.stop_reason == "tool_use"


# --- any sequence of chunks ----------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=6)
arguments = st.one_of(
    st.just(""),
    st.dictionaries(
        words, st.one_of(st.integers(-(2**53), 2**53), words, st.none(), st.lists(words)), max_size=3
    ).map(lambda found: orjson.dumps(found).decode()),
)
texts = st.one_of(
    st.tuples(st.sampled_from(["content", "reasoning_content", "reasoning"]), words).map(
        lambda one: chunk({one[0]: one[1]})
    ),
    st.tuples(st.sampled_from(["content", "reasoning_content"]), st.lists(words, min_size=2, max_size=4)).map(
        lambda one: run(one[0], *one[1])
    ),
    st.just(chunk({})),
    st.just(Event(b"", alive=True)),
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Event], list[str]]:
    """The events of an answer with parallel calls in any interleaving, and the calls' arguments."""
    called = draw(st.lists(arguments, max_size=3))
    waiting: list[list[Event]] = []
    for index, whole_arguments in enumerate(called):
        cuts = sorted(draw(st.sets(st.integers(0, len(whole_arguments)), max_size=4)))
        edges = [0, *cuts, len(whole_arguments)]
        first = call(index, id=f"c{index}", name="f")
        waiting.append([first, *(call(index, whole_arguments[a:b]) for a, b in pairwise(edges))])
    order = draw(st.lists(st.one_of(texts, st.integers(0, 3)), max_size=12))
    events: list[Event] = []
    for one in order:
        if isinstance(one, Event):
            events.append(one)
        elif one < len(waiting) and waiting[one] and _may_begin(waiting, one):
            events.append(waiting[one].pop(0))
    return [*events, *(event for rest in waiting for event in rest)], called


def _may_begin(waiting: Sequence[Sequence[Event]], index: int) -> bool:
    """Calls begin in the order of their indexes."""
    return all(len(rest) == 0 or b'"name"' not in rest[0].body for rest in waiting[:index])


def folded(events: Iterable[Event]) -> dict[str, str]:
    """The text and the reasoning of chunks."""
    found = {"text": "", "thinking": ""}
    for event in events:
        for body in event.body.split(sse.BETWEEN) if event.body else ():
            for name, value in orjson.loads(body)["choices"][0]["delta"].items():
                if isinstance(value, str):
                    found["text" if name == "content" else "thinking"] += value
    return found


@settings(max_examples=300, deadline=None)
@given(answers(), st.lists(st.integers(1, 4), max_size=30))
def test_the_client_reads_any_stream_as_the_whole_answer(
    answer: tuple[list[Event], list[str]], sizes: list[int]
) -> None:
    events, called = answer
    encoder = MESSAGES.encoder(REQUEST, SEALS)
    data, rest = b"", [ROLE, *events]
    for size in [*sizes, len(rest)]:
        data += encoder.events(rest[:size], ended=False)
        rest = rest[size:]
    data += encoder.events([chunk({}, "stop"), USAGE_CHUNK], ended=True)
    found = frames(data)
    _check_blocks(found)
    message = read(data)
    expected = folded(events)
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": given}}
        for i, given in enumerate(called)
    ]
    fields = {"content": expected["text"], "reasoning_content": expected["thinking"], "tool_calls": calls}
    plain = whole(fields, "stop")
    for kind, name in (("text", "text"), ("thinking", "thinking")):
        assert _joined(message, kind) == expected[name]
        assert "".join(b[name] for b in plain["content"] if b["type"] == kind) == expected[name]
    uses = [block.to_dict() for block in message.content if block.type == "tool_use"]
    assert uses == [block for block in plain["content"] if block["type"] == "tool_use"]
    assert [use["input"] for use in uses] == [orjson.loads(given or "{}") for given in called]
    assert message.stop_reason == plain["stop_reason"] == ("tool_use" if called else "end_turn")
    assert message.usage.input_tokens == plain["usage"]["input_tokens"] == 10


def _joined(message: Any, kind: str) -> str:
    return "".join(getattr(block, kind) for block in message.content if block.type == kind)


def _check_blocks(found: Sequence[Any]) -> None:
    """One block is open at a time, numbered as begun; nothing is empty or outside a block."""
    opened, current = 0, None
    for frame in found:
        match frame["type"]:
            case "content_block_start":
                assert current is None
                assert frame["index"] == opened
                current, opened = opened, opened + 1
            case "content_block_delta":
                assert frame["index"] == current
                assert all(frame["delta"].values())
            case "content_block_stop":
                assert frame["index"] == current
                current = None
    assert current is None
    assert [frame["type"] for frame in found[:2]] == ["message_start", "ping"]
    assert [frame["type"] for frame in found[-2:]] == ["message_delta", "message_stop"]


counts = st.integers(-5, 10**9)


@given(st.builds(Usage, counts, counts, counts, counts, counts, counts))
def test_usage_is_never_negative(usage: Usage) -> None:
    found = usage_json(usage)
    nested = [value for value in found.values() if isinstance(value, dict)]
    numbers = [value for one in (found, *nested) for value in one.values() if isinstance(value, int)]
    assert min(numbers) >= 0


@pytest.mark.parametrize(
    "delta", [{"tool_calls": [None, {"function": 1}, {"index": "x"}]}, {"content": [1]}, [], 1]
)
def test_odd_deltas_are_left_out(delta: Any) -> None:
    assert read(streamed(chunk({"content": "a"}), Event(chunk(delta).body))).content[0].text == "a"
