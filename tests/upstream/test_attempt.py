"""One attempt over a fake internet: every way it can go wrong is a `Failure`, and nothing stays open."""

import asyncio
import itertools
import zlib
from dataclasses import replace
from typing import Any

import pytest

from codellama_proxy.core.snapshot import Deployment, Timeouts
from codellama_proxy.core.sse import MAX_EVENT_BYTES
from codellama_proxy.upstream.event_reader import MAX_STREAM_BYTES
from codellama_proxy.upstream.response_body import MAX_ANSWER_BYTES, MAX_ERROR_BYTES
from tests.support.attempt_driver import HASTY, Call, answer_text, playing, reading
from tests.support.builders import deployment
from tests.support.cases import each
from tests.support.dialogues import HEAD, OPENAI, chunk, sse
from tests.support.fake_internet import HANG, Piece, Script, answer, good, refusal, stream

TEXT = OPENAI.answers["text"]
ROLE = sse(chunk({"role": "assistant", "content": ""}))
WORDS = sse(chunk({"content": "def "}), chunk({"content": "f"}))
PINGS: list[Piece] = [b": ping\n\n", 0.005] * 1000
END = sse(chunk({}, "stop"), b"[DONE]")

# --- answers that are none -----------------------------------------------------------------------------------

BOMB = {"content-encoding": "gzip", "content-type": "application/json"}


@each("streamed", [False, True])
@each(
    ("script", "reason"),
    [
        (answer(b"", status=302, location="http://169.254.169.254/"), "redirect"),
        (Script((b"\x1f\x8b" + b"x" * 100,), 200, BOMB), "content_encoding"),
        (answer(b'{"error": {"message": "overloaded", "code": 503}}'), "error_in_200"),
        (refusal(200), "error_in_200"),
        (refusal(500), "http_500"),
        (refusal(429, retry_after="3"), "http_429"),
        (refusal(204), "http_204"),
    ],
)
def test_an_error_in_any_form_fails_the_attempt(script: Script, reason: str, streamed: bool) -> None:
    failed, call = playing(script, streamed=streamed)
    assert failed.reason == reason
    assert len(call.internet.sent) == 1, "nothing is followed"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answer(b""), "not_json"),
        (answer(TEXT.whole[:-20]), "not_json"),
        (Script((b"<!doctype html><title>nginx</title>",), 200, {"content-type": "text/html"}), "not_json"),
        (answer(b'{"choices": []}'), "no_choices"),
    ],
)
def test_an_empty_plain_answer_fails_the_attempt(script: Script, reason: str) -> None:
    failed, _ = playing(script, streamed=False)
    assert (failed.cls, failed.reason) == ("disguised", reason)


@each(
    ("script", "reason"),
    [
        (stream(), "empty_stream"),
        (stream(b": hello\n\n"), "empty_stream"),
        (stream(sse(b"[DONE]")), "empty_stream"),
        (stream(ROLE + sse(b"[DONE]")), "empty_stream"),
        (stream(ROLE), "cut_stream"),
        (stream(ROLE, b'data: {"choi'), "cut_stream"),
        (stream(sse({"error": {"message": "overloaded"}})), "error_in_200"),
        (stream(ROLE, sse({"error": {"message": "overloaded"}})), "error_in_200"),
        (stream(ROLE + WORDS + sse({"error": {"message": "in the same breath"}})), "error_in_200"),
        (Script((b"<!doctype html>",), 200, {"content-type": "text/html"}), "empty_stream"),
        (stream(b"data: " + b"x" * (MAX_EVENT_BYTES + 1)), "too_large"),
        (stream(*[b": " + b"x" * (1 << 20) + b"\n\n"] * (MAX_STREAM_BYTES >> 20)), "too_large"),
    ],
)
def test_a_stream_without_content_fails_the_attempt(script: Script, reason: str) -> None:
    failed, _ = playing(script, streamed=True)
    assert (failed.cls, failed.reason) == ("disguised", reason)


IMAGE = {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_200_000}}]}


def test_an_event_may_contain_an_image() -> None:
    events, failed, _ = reading(stream(ROLE, sse(chunk({"content": "Here: ", **IMAGE})), END))
    assert (answer_text(events), failed) == ("Here: ", None)
    assert any(b"A" * 1_200_000 in event.body for event in events)


LARGE_TEXT = sse(chunk({"content": "a b " * (MAX_EVENT_BYTES // 4 + 9_000)}))
MANY_TEXTS = [sse(chunk({"content": "a b " * 50_000}))] * (MAX_ANSWER_BYTES // 200_000 + 1)


@pytest.mark.parametrize(
    ("script", "streamed"),
    [
        (stream(LARGE_TEXT, END), True),
        (stream(ROLE, LARGE_TEXT, END), True),
        (stream(LARGE_TEXT, END), False),
        (stream(*MANY_TEXTS, END), False),
        (
            answer(b'{"choices":[{"message":{"content":"' + b"a b " * (MAX_ANSWER_BYTES // 4) + b'"}}]}'),
            False,
        ),
        (answer(b'{"choices":[{"message":{"content":"' + b"a b " * (MAX_ANSWER_BYTES // 4) + b'"}}]}'), True),
    ],
)
def test_an_aborted_answer_is_not_a_failure_and_its_received_part_is_counted(
    script: Script, streamed: bool
) -> None:
    failed, call = playing(script, streamed=streamed)
    assert (failed.cls, failed.reason) == ("caller", "too_large")
    assert len(call.text) >= 4_000_000


@pytest.mark.parametrize(
    "broken",
    [b'data: {"choices":[{"delta":{"content":"lost words"},}]}\n\n', b'data: {"text":"lost words\n\n'],
)
@pytest.mark.parametrize("before", [b"", WORDS])
def test_the_text_of_an_unreadable_event_is_counted(before: bytes, broken: bytes) -> None:
    failed, call = playing(stream(ROLE + before + broken, END), streamed=True)
    assert failed.reason == "not_json"
    assert call.text.endswith("lost words")


def test_the_text_of_an_error_is_not_counted() -> None:
    failed, call = playing(stream(ROLE + sse({"error": {"message": "no", "text": "no"}})), streamed=True)
    assert (failed.refused, call.text) == (True, "")


# --- encodings and statuses ----------------------------------------------------------------------------------


def compressed(data: bytes, wbits: int) -> bytes:
    work = zlib.compressobj(wbits=wbits)
    return work.compress(data) + work.flush()


ENCODINGS = [("gzip", 31), ("GZIP", 31), ("x-gzip", 31), ("deflate", 15), ("deflate", -15), ("Identity", 0)]


@pytest.mark.parametrize(("encoding", "wbits"), ENCODINGS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_compressed_answer_is_read(encoding: str, wbits: int, streamed: bool) -> None:
    script = good(streamed=streamed)
    body = TEXT.stream if streamed else TEXT.whole
    sent = compressed(body, wbits) if wbits else body
    pieces = tuple(sent[at : at + 50] for at in range(0, len(sent), 50))
    headers = {**script.headers, "content-encoding": encoding}
    events, failed, _ = reading(Script(pieces, 200, headers), streamed=streamed)
    assert (answer_text(events), failed) == (TEXT.text, None)


def test_a_compressed_error_is_read() -> None:
    body = compressed(b'{"error": {"message": "Too many tokens: 9", "code": "context_length_exceeded"}}', 31)
    failed, _ = playing(Script((body,), 400, BOMB), streamed=False)
    assert (failed.cls, failed.reason) == ("caller", "context_length")


def test_a_compression_bomb_is_not_expanded() -> None:
    body = compressed(b'{"choices":[{"message":{"content":"' + bytes(40 << 20), 31)
    failed, call = playing(Script((body,), 200, BOMB), streamed=False)
    assert failed.reason == "too_large"
    assert len(call.text) <= MAX_ANSWER_BYTES + (1 << 20)


@pytest.mark.parametrize("status", [201, 202, 206])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_2xx_status_is_a_success(status: int, streamed: bool) -> None:
    script = replace(good(streamed=streamed), status=status)
    events, failed, _ = reading(script, streamed=streamed)
    assert (answer_text(events), failed) == (TEXT.text, None)


def test_an_endless_answer_is_aborted() -> None:
    endless = itertools.repeat(b"x" * (1 << 20))
    failed, call = playing(Script(endless), streamed=False)  # type: ignore[arg-type]  # it has no end
    assert failed.reason == "too_large"
    assert call.internet.bodies[0].read <= MAX_ANSWER_BYTES + (1 << 20)


def test_an_endless_error_is_classified_by_its_status() -> None:
    endless = itertools.repeat(b"x" * 1000)
    failed, call = playing(Script(endless, status=400), streamed=True)  # type: ignore[arg-type]  # it has no end
    assert (failed.cls, failed.reason) == ("caller", "http_400")
    assert call.internet.bodies[0].read <= MAX_ERROR_BYTES + 1000


def test_an_undecodable_error_is_not_quoted() -> None:
    failed, _ = playing(Script((b"\x1f\x8b\x08 garbled",), 400, BOMB), streamed=False)
    assert (failed.cls, failed.message) == ("caller", "The upstream refused the request.")


# --- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "streamed", "reason"),
    [
        (None, False, "answer_timeout"),
        (answer(TEXT.whole[:50], HANG), False, "answer_timeout"),
        (None, True, "first_token_timeout"),
        (stream(HANG), True, "first_token_timeout"),
        (stream(ROLE, HANG), True, "first_token_timeout"),
        (stream(*PINGS), True, "first_token_timeout"),
        (Script((HANG,), 500), True, "first_token_timeout"),
    ],
)
def test_a_silent_upstream_times_out(script: Script | None, streamed: bool, reason: str) -> None:
    failed, _ = playing(script, streamed=streamed, where=HASTY)
    assert (failed.cls, failed.code, failed.reason) == ("transient", "upstream_timeout", reason)
    assert failed.sent


def test_an_attempt_is_bounded_by_its_time_budget() -> None:
    for streamed in (False, True):
        failed, _ = playing(None, streamed=streamed, budget=0.02)
        assert failed.code == "upstream_timeout"


def test_a_stream_that_stalls_fails_at_the_idle_timeout() -> None:
    events, failed, _ = reading(stream(ROLE + WORDS, HANG), where=LIVELY)
    assert answer_text(events) == "def f"
    assert failed is not None
    assert (failed.reason, failed.code) == ("idle_timeout", "upstream_timeout")


def test_every_byte_resets_the_idle_timeout_until_the_deadline() -> None:
    events, failed, _ = reading(stream(ROLE + WORDS, *PINGS[:40], END), where=LIVELY)
    assert (answer_text(events), failed) == ("def f", None)
    events, failed, _ = reading(stream(ROLE + WORDS, *PINGS), idle=0.1, where=LIVELY)
    assert answer_text(events) == "def f"
    assert failed is not None
    assert failed.code == "upstream_timeout"


# --- thinking that is not shown ------------------------------------------------------------------------------

LIVELY = deployment("a", timeouts=Timeouts(first_token=0.1, idle=0.1))
CLAUDE = deployment("a", provider="anthropic", timeouts=LIVELY.timeouts)
COMMAND = deployment("a", provider="cohere", timeouts=LIVELY.timeouts)


def events(*these: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\n%s" % (one["type"].encode(), sse(one)) for one in these)


MESSAGE = {"type": "message_start", "message": {"id": "m", "role": "assistant", "usage": {"input_tokens": 1}}}
CLAUDE_END = events(
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "def f"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
)
COMMAND_END = events(
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "def f"}}}},
    {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
)


def opened(**block: str) -> bytes:
    return events(MESSAGE, {"type": "content_block_start", "index": 0, "content_block": block})


HIDDEN = [
    (CLAUDE, opened(type="thinking", thinking=""), events({"type": "ping"}), CLAUDE_END),
    (CLAUDE, opened(type="redacted_thinking", data="x"), events({"type": "ping"}), CLAUDE_END),
    (CLAUDE, opened(type="server_tool_use", name="web_search"), b": ping\n\n", CLAUDE_END),
    (CLAUDE, opened(type="text", text=""), b":\n\n", CLAUDE_END),
    (
        LIVELY,
        sse(
            chunk(
                {"role": "assistant", "content": "", "reasoning_details": [{"type": "reasoning.encrypted"}]}
            )
        ),
        b": OPENROUTER PROCESSING\n\n",
        WORDS + END,
    ),
    (
        COMMAND,
        events(
            {"type": "message-start", "id": "m"},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "thinking"}}}},
        ),
        b": ping\n\n",
        COMMAND_END,
    ),
]


@pytest.mark.parametrize(("where", "begun", "ping", "rest"), HIDDEN)
def test_hidden_output_counts_as_progress(where: Deployment, begun: bytes, ping: bytes, rest: bytes) -> None:
    thinking: list[Piece] = [ping, 0.01] * 20
    found, failed, _ = reading(stream(begun, *thinking, rest), where=where)
    assert (answer_text(found), failed) == ("def f", None)


@pytest.mark.parametrize(("where", "begun", "ping", "rest"), HIDDEN)
def test_hidden_reasoning_ends_at_the_idle_timeout_or_deadline(
    where: Deployment, begun: bytes, ping: bytes, rest: bytes
) -> None:
    failed, _ = playing(stream(begun, ping, HANG), streamed=True, where=where)
    assert (failed.cls, failed.reason) == ("transient", "idle_timeout")
    endless: list[Piece] = [ping, 0.005] * 1000
    failed, _ = playing(stream(begun, *endless), streamed=True, where=where, budget=0.1)
    assert (failed.cls, failed.code) == ("transient", "upstream_timeout")


@pytest.mark.parametrize(
    ("where", "begun", "ping"),
    [(CLAUDE, events(MESSAGE), events({"type": "ping"})), (LIVELY, ROLE, b": OPENROUTER PROCESSING\n\n")],
)
def test_keep_alives_are_not_progress_before_the_first_token(
    where: Deployment, begun: bytes, ping: bytes
) -> None:
    endless: list[Piece] = [ping, 0.005] * 1000
    failed, _ = playing(stream(begun, *endless), streamed=True, where=where)
    assert failed.reason == "first_token_timeout"


# --- answers -------------------------------------------------------------------------------------------------


@each("kind", OPENAI.answers)
@each("streamed", [False, True])
def test_an_answer_is_read_completely_and_its_connection_released(kind: str, streamed: bool) -> None:
    events, failed, call = reading(good(kind, streamed=streamed), streamed=streamed)
    assert failed is None
    assert answer_text(events) == OPENAI.answers[kind].text
    assert call.internet.bodies[0].ended, "only then the connection can be used again"


def test_events_received_together_are_delivered_together() -> None:
    call = Call(stream(ROLE, WORDS, END))

    async def main() -> list[int]:
        reply = await call.open(streamed=True)
        batches = [len(reply.first), len(await reply.more(1.0))]
        assert reply.ended
        await reply.close()
        return batches

    assert asyncio.run(main()) == [3, 1]


def test_a_stream_that_stays_open_after_done_is_closed() -> None:
    events, failed, call = reading(stream(ROLE + WORDS + END, HANG))
    assert (answer_text(events), failed) == ("def f", None)
    assert not call.internet.bodies[0].ended


@pytest.mark.parametrize("ending", [b"", b"data: [DONE]", b"data: [DONE]\n"])
def test_errors_after_done_are_ignored(ending: bytes) -> None:
    events, failed, _ = reading(stream(ROLE + WORDS, sse(chunk({}, "stop")), ending))
    assert (answer_text(events), failed) == ("def f", None)


def test_events_before_an_error_in_the_same_chunk_are_delivered() -> None:
    broken = sse(chunk({"content": "()"}), {"error": {"message": "overloaded"}}, {**HEAD, "choices": []})
    events, failed, _ = reading(stream(ROLE + WORDS, broken))
    assert answer_text(events) == "def f()"
    assert failed is not None
    assert failed.reason == "error_in_200"


@pytest.mark.parametrize("pieces", [(ROLE, HANG), (ROLE + WORDS, HANG)])
def test_cancelling_closes_the_connection(pieces: tuple[bytes, float]) -> None:
    call = Call(stream(*pieces))

    async def use() -> None:
        reply = await call.open(streamed=True)
        try:
            await reply.more(60)
        finally:
            await reply.close()

    async def main() -> None:
        task = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [body.closed for body in call.internet.bodies] == [True]
        call.check_nothing_is_open()

    asyncio.run(main())


def test_an_attempt_is_sent_once() -> None:
    _, _, call = reading(good(streamed=True))
    (sent,) = call.internet.sent
    assert sent.connect_seconds == 5.0
