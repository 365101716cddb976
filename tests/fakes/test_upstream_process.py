"""The scripted upstream does what a script says, on the wire and in its journal."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.support.processes import LOOPBACK, until
from tests.support.upstream.process import Upstream
from tests.support.upstream.script import ScriptError, parse


def post(upstream: Upstream, script: str, **body: object) -> httpx2.Response:
    whole = {"model": script, "messages": [{"role": "user", "content": "hi"}], **body}
    return httpx2.post(f"{upstream.url}/chat/completions", json=whole, **LOOPBACK, timeout=5)


def test_steps_are_played_in_order_and_the_last_one_repeats(upstream: Upstream) -> None:
    script = "seq/status=500|status=429;retry_after=7|ok"
    answers = [post(upstream, script) for _ in range(4)]
    assert [one.status_code for one in answers] == [500, 429, 200, 200]
    assert answers[1].headers["retry-after"] == "7"
    assert upstream.journal.models() == ["seq"] * 4


def test_an_invalid_script_is_refused_before_use() -> None:
    with pytest.raises(ScriptError, match="no script word 'okay'"):
        parse("label/okay")


def test_the_journal_records_the_usage(upstream: Upstream) -> None:
    whole = post(upstream, "usage/usage=11,7,3").json()["usage"]
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (11, 7)
    streamed = post(upstream, "usage2", stream=True, stream_options={"include_usage": True}).text
    chunk = json.loads(streamed.split("\n\n")[-3].removeprefix("data: "))
    assert upstream.journal.usages() == [whole, chunk["usage"]]


@pytest.mark.parametrize("script", ["cut/cut=3", "cut/cut_open=3", "cut/drop", "cut/reset"])
def test_a_cut_breaks_the_connection(upstream: Upstream, script: str) -> None:
    with pytest.raises(httpx2.TransportError):
        post(upstream, script, stream=True)


def test_a_clean_cut_ends_the_stream_without_done(upstream: Upstream) -> None:
    text = post(upstream, "clean/cut_clean=3", stream=True).text
    assert "clean-2" in text
    assert "clean-3" not in text
    assert "[DONE]" not in text


@pytest.mark.parametrize("how", ["crlf", "cr", "tight", "comments", "byte_by_byte", "trailers", "http10"])
def test_every_framing_carries_the_same_answer(upstream: Upstream, how: str) -> None:
    text = post(upstream, f"odd/{how}", stream=True).text
    events = text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
    data = [line[5:].strip() for event in events for line in event.split("\n") if line.startswith("data:")]
    assert data[-1] == "[DONE]"
    pieces = [json.loads(one)["choices"][0]["delta"].get("content", "") for one in data[:-1]]
    assert "".join(pieces) == " ".join(f"odd-{i}" for i in range(8))


def test_a_gate_pauses_a_stream_until_opened(upstream: Upstream) -> None:
    whole = {"model": "barred/gate=2", "messages": [], "stream": True}
    with httpx2.stream("POST", f"{upstream.url}/chat/completions", json=whole, **LOOPBACK) as answer:
        lines = answer.iter_lines()
        until(lambda: "barred-1" in next(lines), "the token before the gate")
        (asked,) = upstream.journal.requests("barred")
        sent = upstream.journal.events("sent", request=asked["request"])
        assert [one["token"] for one in sent] == [0, 1]
        upstream.open_gate("barred")
        assert list(lines)[-2] == "data: [DONE]"


def test_a_disconnect_is_recorded(upstream: Upstream) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(
            f"{upstream.url}/chat/completions",
            json={"model": "gone/hang", "messages": []},
            **LOOPBACK,
            timeout=0.1,
        )
    (asked,) = until(lambda: upstream.journal.requests("gone"), "the request")
    until(lambda: upstream.journal.closed(asked["request"]), "the close")
