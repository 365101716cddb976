"""Upstreams' odd and broken answers through the real gateway, with the cache on: each is right or a failure.

Nothing that is not complete is told as complete, kept or shared; nothing that a kept or shared copy cannot have
costs the answer itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Cache, Price, Routing
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import USAGE, chunk, sse, whole
from tests.support.fake_internet import Internet, Script, answer, good, refusal, stream
from tests.support.gateway_harness import Client, Rig, run

PRICE = Price(2_000_000_000, 4_000_000_000)
ENTRY = deployment("a", price=PRICE)
SETTING = snapshot(model("a", ENTRY), cache=Cache(), routing=Routing(retries=0, max_attempts=1, deadline=5.0))
DONE = b"[DONE]"
ONE = chunk({"role": "assistant", "content": "one "})
END = chunk({}, "stop")

BROKEN = {
    "cut after an empty finish reason": sse(chunk({"content": "half"}, "")),
    "cut in the middle of a piece": sse(ONE) + b'data: {"choices": [{"index": 0, "del',
    "a piece that is not JSON": sse(
        ONE, b'{"choices": [{"index": 0, "delta": {"content": "LOST"}', END, DONE
    ),
    "NaN": sse(ONE, b'{"choices": [], "a": NaN}', END, DONE),
    "a bare number": sse(ONE, b"5", END, DONE),
    "half a character at the end": sse(
        ONE, b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}', END, DONE
    ),
    "half a character in the middle": sse(
        ONE, b'{"choices":[{"index":0,"delta":{"content":"\\ud83d!"}}]}', END, DONE
    ),
    "half a character that meets another": sse(
        b'{"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"b"}}]}',
        END,
        DONE,
    ),
    "an error without a field for it": sse(ONE, {"object": "error", "message": "died", "code": 500}, DONE),
    "an error event": sse(ONE) + b"event: error\ndata: engine died\n\n" + sse(DONE),
    "an error's text": sse(ONE, {"error": "died"}, DONE),
    "a detail": sse(ONE, {"detail": "died"}, DONE),
    "an error in a choice": sse(ONE, {"choices": [{"index": 0, "error": {"message": "died"}}]}, DONE),
    "the upstream gave up": sse(ONE, chunk({}, "error"), DONE),
    "content that is a number": sse(ONE, chunk({"content": 5}), END, DONE),
    "choices that are no list": sse(ONE, {"choices": {"0": {}}}, END, DONE),
    "a delta that is a text": sse(ONE, {"choices": [{"index": 0, "delta": "lost"}]}, END, DONE),
    "too deep": sse(ONE, b'{"choices": [], "a": ' + b"[" * 300 + b"]" * 300 + b"}", END, DONE),
    "too many choices": sse(
        ONE, {"choices": [{"index": n, "delta": {"content": "x"}} for n in range(10_000)]}, END
    ),
}


def play(tmp_path: Path, internet: Internet, use: Any) -> None:
    async def bounded(rig: Rig) -> None:
        async with asyncio.timeout(30):
            await use(rig)

    run(tmp_path, SETTING, internet, bounded)


def complete(client: Client) -> bool:
    return client.status == 200 and client.events[-1] is None


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_broken_stream_is_never_complete(tmp_path: Path, broken: bytes, at_once: bool) -> None:
    pieces = [broken] if at_once else [event + b"\n\n" for event in broken.split(b"\n\n") if event]

    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=True)
        if client.status == 200:
            assert client.events[-1]["error"]["code"] in ("upstream_invalid_response", "upstream_error")
        row = await rig.row()
        assert row["status"] == "error"
        again = await rig.ask(stream=True)
        assert complete(again)
        assert again.headers["x-proxy-cache"] == "miss"

    play(tmp_path, Internet(a=[stream(*pieces), good(streamed=True)]), use)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_stream_to_a_plain_request_is_never_complete(tmp_path: Path, broken: bytes) -> None:
    async def use(rig: Rig) -> None:
        client = await rig.ask()
        assert client.status == 502
        assert (await rig.row())["status"] == "error"

    play(tmp_path, Internet(a=[stream(broken)]), use)


def test_a_stream_broken_before_content_falls_back(tmp_path: Path) -> None:
    setting = snapshot(model("a", ENTRY, fallbacks=("b",)), model("b", deployment("b", price=PRICE)))

    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=True)
        assert complete(client)
        assert client.headers["x-proxy-model"] == "b"

    broken = sse(chunk({"role": "assistant"}), b"{broken", ONE, END, DONE)
    run(tmp_path, setting, Internet(a=[stream(broken)], b=[good(streamed=True)]), use)


SO_FAR = {"role": "assistant", "content": "a"}
ODD = {
    "finish reasons that are empty": (
        sse(chunk({"content": "a"}, ""), chunk({"content": "b"}, ""), END, DONE),
        "ab",
    ),
    "roles that are empty": (
        sse(chunk({"role": "", "content": "a"}), chunk({"role": None, "content": "b"}), END, DONE),
        "ab",
    ),
    "a field that changes its kind": (
        sse(
            *[{**chunk({"content": "a"}), "extra": value} for value in ("x", {"a": 1}, [1], 5, None, "y")],
            END,
            DONE,
        ),
        "a" * 6,
    ),
    "a field of the delta that changes its kind": (
        sse(
            *[chunk({"content": "a", "extra": value}) for value in ("x", {"a": 1}, [1], 5, None, "y")],
            END,
            DONE,
        ),
        "a" * 6,
    ),
    "log probabilities of other kinds": (
        sse(
            *[
                {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": value}]}
                for value in (
                    [],
                    {},
                    True,
                    "x",
                    {"content": 5},
                    {"content": ["x"]},
                    {"tokens": 5},
                    -0.5,
                    None,
                )
            ],
            END,
            DONE,
        ),
        "a" * 9,
    ),
    "usage of other kinds": (
        sse(*[{**ONE, "usage": value} for value in ([], "x", 5, True, {"prompt_tokens": "x"})], END, DONE),
        "one " * 5,
    ),
    "no index": (
        sse(
            {"choices": [{"delta": {"content": "a"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        ),
        "a",
    ),
    "indexes of other kinds": (
        sse(
            *[
                {"choices": [{"index": value, "delta": {"content": "a"}}]}
                for value in ("0", None, 0.0, False, [], -1)
            ],
            END,
        ),
        "a" * 6,
    ),
    "halves of a character": (
        sse(
            b'{"choices":[{"index":0,"delta":{"content":"nice \\ud83d"}}]}',
            b'{"choices":[{"index":0,"delta":{"content":"\\ude00 day"}}]}',
            END,
            DONE,
        ),
        "nice \U0001f600 day",
    ),
    "bytes that are no UTF-8": (
        sse(b'{"choices":[{"index":0,"delta":{"content":"a\xffb"}}]}', END, DONE),
        "a\ufffdb",
    ),
    "an event of several lines": (
        b'data: {"choices":\ndata: [{"index":0,\ndata: "delta":{"content":"a"}}]}\n\n' + sse(END, DONE),
        "a",
    ),
    "messages for deltas": (
        sse(
            {
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
                ]
            },
            DONE,
        ),
        "a",
    ),
    "the answer so far beside each delta": (  # as Perplexity sends it
        sse(
            {"choices": [{"index": 0, "message": SO_FAR, "delta": {"role": "assistant", "content": "a"}}]},
            {"choices": [{"index": 0, "message": {**SO_FAR, "content": "ab"}, "delta": {"content": "b"}}]},
            END,
            DONE,
        ),
        "ab",
    ),
    "the answer again after the deltas": (  # as MiniMax sends it
        sse(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]},
            {"choices": [{"index": 0, "delta": {"content": "b"}}]},
            {"choices": [{"index": 0, "message": {**SO_FAR, "content": "ab"}, "finish_reason": "stop"}]},
            DONE,
        ),
        "ab",
    ),
    "the text beside the delta": (  # as Together sends it
        sse(
            {"choices": [{"index": 0, "text": "a", "delta": {"role": "assistant", "content": "a"}}]},
            {"choices": [{"index": 0, "text": "b", "delta": {"content": "b"}}]},
            END,
            DONE,
        ),
        "ab",
    ),
    "ids and dates of other kinds": (
        sse({**ONE, "id": 5, "created": "x", "model": 7}, {**END, "id": None, "created": True}, DONE),
        "one ",
    ),
    "nested deep, but not too deep": (
        sse({**ONE, "usage": None, "x": orjson.loads(b"[" * 150 + b"]" * 150), "id": ""}, END, DONE),
        "one ",
    ),
}


def check_chunk(found: dict[str, Any], ids: set[Any]) -> None:
    """As strict clients read it."""
    ids.add((found["id"], found["created"]))
    assert found["object"] == "chat.completion.chunk"
    assert type(found["created"]) is int
    assert isinstance(found["id"], str)
    assert isinstance(found["model"], str)
    assert found["model"]
    for choice in found["choices"]:
        assert type(choice["index"]) is int
        assert choice["delta"].get("role", "assistant") == "assistant"
        assert isinstance(choice["delta"].get("content"), str | None)
        assert choice.get("finish_reason") in (None, "stop", "length", "tool_calls", "content_filter")
        assert isinstance(choice.get("logprobs"), dict | None)
        for one in (choice.get("logprobs") or {}).get("content") or []:
            assert isinstance(one["token"], str)


@pytest.mark.parametrize(("odd", "text"), ODD.values(), ids=ODD)
def test_an_unusual_stream_is_read_shared_and_cached_in_both_forms(
    tmp_path: Path, odd: bytes, text: str
) -> None:
    async def use(rig: Rig) -> None:
        first, shared, other = await asyncio.gather(
            rig.ask(stream=True), rig.ask(stream=True), rig.ask(stream=False)
        )
        kept, kept_whole = await rig.ask(stream=True), await rig.ask()
        for client in (first, shared, kept):
            assert complete(client), client.data
            assert client.data.count(b"\n") == 2 * len(client.events), "an event is one line"
            ids: set[Any] = set()
            for event in client.events[:-1]:
                check_chunk(event, ids)
            assert len(ids) == 1
            assert client.answer_text == text
        for client in (other, kept_whole):
            assert client.status == 200
            assert client.answer_text == text
            assert client.json["choices"][0]["finish_reason"] == "stop"
            assert client.json["choices"][0]["message"]["role"] == "assistant"
        assert len(internet.asked) == 1
        assert (shared.headers["x-proxy-cache"], kept.headers["x-proxy-cache"]) == ("hit", "hit")
        assert [row["status"] for row in await rig.rows()] == ["ok"] * 5

    internet = Internet(a=[stream(odd), refusal(500)])
    play(tmp_path, internet, use)


WORDS = {"content": "four words of text"}


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain", ""])
def test_a_plain_answer_to_a_streamed_request_is_accepted(tmp_path: Path, kind: str) -> None:
    body = whole(WORDS)

    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=True, stream_options={"include_usage": True})
        assert complete(client)
        assert client.answer_text == WORDS["content"]
        (usage,) = [event["usage"] for event in client.events[:-1] if event.get("usage")]
        assert usage == USAGE
        row = await rig.row(client)
        assert (row["status"], row["basis"], row["prompt_tokens"]) == ("ok", "exact", USAGE["prompt_tokens"])
        assert (await rig.ask()).headers["x-proxy-cache"] == "hit"

    play(tmp_path, Internet(a=[Script((b" \n" + body[:9], body[9:]), 200, {"content-type": kind})]), use)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain", ""])
@pytest.mark.parametrize(
    "start", [b"", b": PROCESSING\n\n", b"\n", b"event: message\n", b"\xef\xbb\xbf", b"id: 1\n"]
)
def test_a_stream_to_a_plain_request_is_accepted(tmp_path: Path, kind: str, start: bytes) -> None:
    usage = {**END, "choices": [], "usage": USAGE}
    raw = start + sse(ONE, chunk({"content": "two"}), END, usage, DONE)

    async def use(rig: Rig) -> None:
        client = await rig.ask()
        assert client.status == 200
        assert client.answer_text == "one two"
        assert client.json["object"] == "chat.completion"
        assert client.json["usage"] == USAGE
        row = await rig.row(client)
        assert (row["status"], row["basis"], row["prompt_tokens"]) == ("ok", "exact", USAGE["prompt_tokens"])
        assert (await rig.ask(stream=True)).headers["x-proxy-cache"] == "hit"

    play(tmp_path, Internet(a=[Script((raw[:7], raw[7:]), 200, {"content-type": kind})]), use)


@pytest.mark.parametrize("streamed", [False, True])
def test_completions_are_accepted_in_the_other_form(tmp_path: Path, streamed: bool) -> None:
    entry = deployment("a", price=PRICE, mode="completion")
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "x"}
    pieces = [
        {**head, "choices": [{"index": 0, "text": "a", "finish_reason": ""}]},
        {**head, "choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": USAGE},
    ]
    body = {**head, "choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}], "usage": USAGE}
    script = answer(orjson.dumps(body)) if streamed else stream(sse(*pieces, DONE))

    async def use(rig: Rig) -> None:
        client = Client({"prompt": "x", "stream": streamed}, rig.secret)
        await rig.gateway.answer("completions", client)
        assert client.status == 200
        shown = [event for event in client.events if event] if streamed else [client.json]
        assert "".join(choice["text"] for one in shown for choice in one["choices"]) == "ab"
        assert shown[-1]["choices"][0]["finish_reason"] == "stop"
        assert {one["object"] for one in shown} == {"text_completion"}
        row = await rig.row(client)
        assert (row["status"], row["basis"]) == ("ok", "exact")

    run(tmp_path, snapshot(model("a", entry)), Internet(a=[script]), use)


def test_tool_calls_with_one_index_keep_their_arguments(tmp_path: Path) -> None:
    def part(call: dict[str, Any]) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": 0, **call}]})

    pieces = [
        part({"id": name, "type": "function", "function": {"name": name, "arguments": ""}})
        if begins
        else part({"function": {"arguments": f'{{"{name}":1}}'}})
        for name in "fg"
        for begins in (True, False)
    ]

    async def use(rig: Rig) -> None:
        first, other = await asyncio.gather(rig.ask(stream=True), rig.ask())
        kept, kept_whole = await rig.ask(stream=True), await rig.ask()
        for client in (other, kept_whole):
            calls = client.json["choices"][0]["message"]["tool_calls"]
            assert [(call["id"], call["function"]["arguments"]) for call in calls] == [
                ("f", '{"f":1}'),
                ("g", '{"g":1}'),
            ]
        for client in (first, kept):
            answer_text = {0: "", 1: ""}
            for event in client.events[:-1]:
                for call in event["choices"][0]["delta"].get("tool_calls", []):
                    answer_text[call["index"]] += call["function"]["arguments"]
            assert answer_text == {0: '{"f":1}', 1: '{"g":1}'}
        assert len(internet.asked) == 1

    internet = Internet(a=[stream(sse(*pieces, chunk({}, "tool_calls"), DONE))])
    play(tmp_path, internet, use)
