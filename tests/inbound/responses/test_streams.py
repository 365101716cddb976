"""Streams that any chunks of a chat become: OpenAI's SDK accumulates them, and the events agree with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.sse import BETWEEN
from codellama_proxy.core.types import Event
from tests.inbound.responses import answers, codex
from tests.inbound.responses.answers import call, chunk, encoder, events_in, more, of_type, whole
from tests.support.openai_client import sdk

NAMES = ("exec_command", "apply_patch", "tool_search", "multi_agent_v1__wait", "mcp__cal__create", "unknown")
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
BODY = {**answers.PLAIN, "tools": [codex.FUNCTIONS[0], codex.APPLY_PATCH, codex.TOOL_SEARCH, codex.AGENTS]}
TEXTS = st.text(max_size=5)
ARGUMENTS = st.sampled_from(
    ["{}", '{"input":"x"}', '{"input":5}', '{"query":"q"}', "", "[]", "no json", '{"a":{"b":1}}', '{"cut']
)
DELTA_FIELDS: dict[str, str] = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "text",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    at = draw(st.integers(0, len(text)))
    return [text[:at], text[at:]]


@st.composite
def _calls(draw: st.DrawFn) -> list[Event]:
    """Calls whose arguments come in pieces, in any mixture; ids may be missing, or given twice."""
    count = draw(st.integers(0, 4))
    ids = [draw(st.sampled_from(["c0", f"c{index}", ""])) for index in range(count)]
    rest = [_pieces(draw, draw(ARGUMENTS)) for _ in range(count)]
    chunks = []
    begun: set[int] = set()
    while any(rest):
        index = draw(st.sampled_from([at for at, left in enumerate(rest) if left and at <= len(begun)]))
        piece = rest[index].pop(0)
        if index in begun:
            chunks.append(chunk(tool_calls=[more(index, piece)]))
        else:
            name = draw(st.sampled_from(NAMES))
            chunks.append(chunk(tool_calls=[call(index, ids[index], name, piece)]))
            begun.add(index)
    return chunks


def _some(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Event]]:
    each = [
        st.builds(lambda value, name=name: chunk(**{name: value}), values) for name, values in kinds.items()
    ]
    return st.lists(st.one_of(each), max_size=4)


@st.composite
def ordered(draw: st.DrawFn, finishes: Sequence[str | None] = ("stop", "tool_calls", None)) -> list[Event]:
    """An answer as providers order it: reasoning, text, calls, the end."""
    blocks = st.lists(st.just({"type": "thinking", "thinking": "t", "signature": "s"}), max_size=1)
    return [
        chunk(role="assistant", content=""),
        *draw(_some(reasoning_content=TEXTS, thinking_blocks=blocks)),
        *draw(_some(content=TEXTS, annotations=st.just([{"url_citation": {"url": "https://a.example"}}]))),
        *draw(_some(refusal=TEXTS)),
        *draw(_calls()),
        chunk(finish=draw(st.sampled_from(finishes))),
        *draw(st.sampled_from([[], [chunk(usage=USAGE)]])),
    ]


@st.composite
def mixed(draw: st.DrawFn) -> list[Event]:
    """The same chunks in any order, some of them as one event, with any finish reason."""
    chunks = draw(ordered(("stop", "length", "content_filter", "tool_calls", "odd", None)))
    chunks = draw(st.permutations(chunks))
    if draw(st.booleans()):
        run = [chunk(content=text) for text in ("one ", "two ", "three")]
        body = BETWEEN.join(one.body for one in run)
        chunks.insert(draw(st.integers(0, len(chunks))), Event(body, content=True, text="one two three"))
    return chunks


def written(chunks: Sequence[Event], sizes: Sequence[int]) -> bytes:
    """The stream of these chunks, which arrive in batches of these sizes."""
    writer = encoder(BODY)
    parts = []
    rest = list(chunks)
    for size in sizes:
        batch, rest = rest[:size], rest[size:]
        parts.append(writer.events(batch, ended=False))
    return b"".join([*parts, writer.events(rest, ended=True)])


@pytest.fixture(scope="module")
def read_by_sdk() -> Iterator[Callable[[bytes], tuple[Any, list[Any]]]]:
    """Gives the final response if it is complete, and all events, as the SDK's accumulator gives them."""
    stream = b""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        sdk().OpenAI(api_key="k", base_url="http://proxy.test/v1", http_client=http, max_retries=0) as client,
    ):

        def read(written: bytes) -> tuple[Any, list[Any]]:
            nonlocal stream
            stream = written
            with client.responses.stream(model="m", input="Hi") as responses:
                events = list(responses)
                is_complete = events[-1].type == "response.completed"
                return (responses.get_final_response() if is_complete else None), events

        yield read


ReadBySdk = Callable[[bytes], tuple[Any, list[Any]]]


def check_consistent(events: Sequence[dict[str, Any]]) -> None:
    """What holds for every stream: numbers, one open item at a time, one id per item, deltas that add up."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    response = events[-1]["response"]
    added, done = of_type(events, "output_item.added"), of_type(events, "output_item.done")
    assert [event["output_index"] for event in added] == list(range(len(response["output"])))
    assert [event["item"]["id"] for event in added] == [item["id"] for item in response["output"]]
    assert all(response["output"][event["output_index"]] == event["item"] for event in done)
    open_item = None
    deltas: dict[tuple[str, int], str] = defaultdict(str)
    for event in events[2:-1]:
        match event["type"]:
            case "response.output_item.added":
                open_item = event["item"]["id"]
            case "response.output_item.done":
                assert event["item"]["id"] == open_item
                open_item = None
            case kind:
                assert event["item_id"] == open_item
                if kind in DELTA_FIELDS:
                    assert event["delta"]
                    deltas[open_item, event.get("content_index", 0)] += event["delta"]
    for (item_id, part), text in deltas.items():
        item = next(item for item in response["output"] if item["id"] == item_id)
        place = item.get("summary") or item.get("content") or [item]
        assert text in place[part].values()


@given(chunks=mixed(), sizes=st.lists(st.integers(0, 5), max_size=5))
def test_the_sdk_reads_every_stream(read_by_sdk: ReadBySdk, chunks: list[Event], sizes: list[int]) -> None:
    stream = written(chunks, sizes)
    events = events_in(stream)
    check_consistent(events)
    final, seen = read_by_sdk(stream)
    assert len(seen) == len(events)
    finishes = [event.finish_reason for event in chunks if event.finish_reason]
    if finishes[-1:] in (["length"], ["content_filter"]):
        assert events[-1]["type"] == "response.incomplete"
    else:
        assert [item.id for item in final.output] == [item["id"] for item in events[-1]["response"]["output"]]


@given(chunks=ordered(("stop", "length", "tool_calls", None)), sizes=st.lists(st.integers(0, 5), max_size=5))
def test_a_stream_ends_with_the_whole_answer(chunks: list[Event], sizes: list[int]) -> None:
    events = events_in(written(chunks, sizes))
    assert events[-1]["response"] == whole(BODY, *chunks)


@given(chunks=mixed(), at=st.integers(0, 20))
def test_a_stream_may_break_anywhere(read_by_sdk: ReadBySdk, chunks: list[Event], at: int) -> None:
    writer = encoder(BODY)
    stream = writer.events(chunks[:at], ended=False) + writer.broken(
        ProxyError("upstream_error", "It failed.")
    )
    events = events_in(stream)
    check_consistent(events)
    _, seen = read_by_sdk(stream)
    assert seen[-1].type == "response.failed"
    assert seen[-1].response.error.message == "It failed."


def test_arguments_of_parallel_calls_may_be_mixed() -> None:
    chunks = [
        chunk(tool_calls=[call(0, "a", "exec_command", '{"cmd":')]),
        chunk(tool_calls=[call(1, "b", "exec_command", '{"cmd":"2')]),
        chunk(tool_calls=[more(0, '"1"}')]),
        chunk(tool_calls=[more(1, '"}')]),
        chunk(finish="tool_calls"),
    ]
    events = events_in(written(chunks, [1, 1, 1, 1]))
    done = [event["item"] for event in of_type(events, "output_item.done")]
    assert [(item["call_id"], item["arguments"]) for item in done] == [
        ("a", '{"cmd":"1"}'),
        ("b", '{"cmd":"2"}'),
    ]


def test_a_call_is_completed_as_soon_as_the_next_one_begins() -> None:
    writer = encoder(BODY)
    writer.events([chunk(tool_calls=[call(0, "a", "exec_command", "{}")])], ended=False)
    second = writer.events([chunk(tool_calls=[call(1, "b", "exec_command", "")])], ended=False)
    assert [event["item"]["call_id"] for event in of_type(events_in(second), "output_item.done")] == ["a"]


def test_events_for_accounting_alone_write_nothing() -> None:
    writer = encoder(BODY)
    assert writer.events([Event(b"")], ended=False) == b""
    assert writer.events([], ended=False) == b""


def test_the_proxys_own_count_replaces_the_upstreams_usage() -> None:
    estimate = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "estimated": True}
    usage_event = Event(orjson.dumps({"id": "x", "choices": [], "usage": estimate}), usage_only=True)
    events = events_in(written([chunk(content="x", usage=None), chunk(finish="stop"), usage_event], []))
    assert events[-1]["response"]["usage"]["input_tokens"] == 7
    assert events[-1]["response"]["usage"]["output_tokens"] == 2


def test_log_probabilities_follow_the_text() -> None:
    token = {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": None}],
    }
    body = {
        "id": "c",
        "choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [token]}}],
    }
    events = events_in(written([Event(orjson.dumps(body))], []))
    shown = {**token, "top_logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": []}]}
    assert of_type(events, "output_text.delta")[0]["logprobs"] == [shown]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [shown]


def test_citations_follow_the_text() -> None:
    citation = {"start_index": 0, "end_index": 2, "url": "https://a.example", "title": "A"}
    cited = chunk(annotations=[{"type": "url_citation", "url_citation": citation}])
    chunks = [chunk(content="Hi"), cited, chunk(content=" there"), chunk(finish="stop")]
    events = events_in(written(chunks, [1, 1, 1, 1]))
    shown = {"type": "url_citation", **citation}
    (added,) = of_type(events, "output_text.annotation.added")
    assert (added["annotation"], added["annotation_index"]) == (shown, 0)
    part = events[-1]["response"]["output"][0]["content"][0]
    assert (part["text"], part["annotations"]) == ("Hi there", [shown])
    assert whole(BODY, *chunks)["output"][0]["content"] == [part]


def test_frames_of_a_relayed_stream_pass_unchanged_and_end_in_its_sequence() -> None:
    event = b'{"type":"response.created","sequence_number":0,"response":{"id":"resp_up"}}'
    created = b"event: response.created\ndata: " + event + b"\n\n"
    delta = b'event: x\ndata: {"type":"x","sequence_number":1}\n\n'
    writer = encoder(BODY)
    assert writer.events([Event(b"{}", raw=created), Event(b"", raw=delta)], ended=False) == created + delta
    (failed,) = events_in(writer.broken(ProxyError("upstream_error", "It failed.")))
    assert failed["sequence_number"] == 2
    assert failed["response"]["id"] == "resp_up"
    assert failed["response"]["status"] == "failed"
    relayed = encoder(BODY)
    assert relayed.events([Event(b"", raw=created)], ended=True) == created


@given(
    text=TEXTS.filter(bool),
    more=st.dictionaries(
        st.sampled_from(["refusal", "tool_calls", "annotations", "reasoning_content", "audio"]),
        st.sampled_from([None, [], ""]),
    ),
    finish=st.sampled_from(["stop", "length", None]),
)
def test_a_whole_text_is_written_as_the_end_of_its_stream(
    text: str, more: dict[str, Any], finish: str | None
) -> None:
    """It is written without its events, which a plain answer does not need."""
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = orjson.dumps({"id": "c", "model": "upstream-model", "choices": [choice], "usage": USAGE})
    found = orjson.loads(encoder(BODY).whole(Event(body, content=True, text=text)))
    streamed = events_in(written([chunk(content=text), chunk(finish=finish), chunk(usage=USAGE)], []))
    assert found["output"] == streamed[-1]["response"]["output"]
    assert found["usage"] == streamed[-1]["response"]["usage"]
    assert found["status"] == streamed[-1]["response"]["status"]
