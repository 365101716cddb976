"""The benchmarks' own parts: what they take for an answer, what they pin, what they print. Nothing is timed."""

import asyncio
import itertools
import json
import math
import re
from urllib.parse import urlsplit

import pytest

from bench.instant import ANSWER, BODY, STREAM, TEXT, WORDS, Instant
from bench.load import Work, chat, requests, run
from bench.peers import LITELLM, PORTKEY, answer_text, said_streaming, version
from bench.tables import Section, at_least, at_most, figure, promises, table


def body_of(answer: bytes) -> bytes:
    """Without the head, and without the sizes of chunks."""
    body = answer.split(b"\r\n\r\n", 1)[1]
    return b"".join(re.findall(rb"data: .*?\n\n", body)) or body


def test_the_upstreams_answers_are_accepted_as_complete() -> None:
    assert answer_text(body_of(ANSWER)) == TEXT
    assert said_streaming(body_of(STREAM)) == "".join(WORDS)


@pytest.mark.parametrize("body", [b"", b"oops", b'{"error": {"message": "no"}}', b'{"choices": []}'])
def test_an_incomplete_answer_is_refused(body: bytes) -> None:
    assert answer_text(body) is None
    assert said_streaming(body) is None
    assert said_streaming(b"data: " + body + b"\n\ndata: [DONE]\n\n") != "".join(WORDS)


def test_a_stream_without_done_is_refused() -> None:
    assert said_streaming(body_of(b"\r\n\r\n" + BODY)) is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_load_sends_the_given_number_of_requests(stream: bool) -> None:
    async def loaded() -> dict[str, float]:
        server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0)
        async with server:
            url = urlsplit(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions")
            asked = requests(url, ["none"], [], chat(stream=stream))
            return await run(url, 2, Work(asked, math.inf, 20, b"HTTP/1.1 200", []))

    assert 20 <= asyncio.run(loaded())["requests"] <= 21


def test_requests_use_many_keys() -> None:
    made = requests(urlsplit("http://h/p"), ["a", "b"], ["x-more: 1"], b"{}")
    seen = set(itertools.islice(made, 100))
    assert seen == {
        b"POST /p HTTP/1.1\r\nhost: h\r\nx-more: 1\r\nauthorization: Bearer " + key + b"\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        for key in (b"a", b"b")
    }


def test_other_gateways_are_pinned_completely() -> None:
    lines = [line for line in LITELLM.read_text().splitlines() if not line.startswith("#")]
    assert all(re.match(r"[a-z0-9-]+==[0-9][^ ]*( ;.*)?$", line) for line in lines)
    assert f"litellm=={version(LITELLM, 'litellm')}" in lines

    wanted = json.loads(PORTKEY.read_text())["dependencies"]
    locked = json.loads(PORTKEY.with_name("package-lock.json").read_text())["packages"]
    assert wanted == {"@portkey-ai/gateway": version(PORTKEY, "gateway")}
    assert locked[""]["dependencies"] == wanted
    assert all("integrity" in package for place, package in locked.items() if place)


def test_figures_have_three_significant_digits() -> None:
    assert [figure(one) for one in (0.02, 1.234, 12.34, 123.4, 12345.6)] == [
        "0.020",
        "1.23",
        "12.3",
        "123",
        "12346",
    ]


def test_a_table_shows_targets_beside_measurements() -> None:
    section = Section("S", "", (at_most("a", 1.2, 1.0, "{:.1f} s"), at_least("b", 0.9, 0.85, "{:.0%}")))
    assert promises([section]) == table(
        ["", "promised", "measured", "kept"],
        [("a", "≤ 1.0 s", "1.2 s", "**no**"), ("b", "≥ 85%", "90%", "yes")],
    )
