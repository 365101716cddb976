"""The built-in mock: what it says, and that it fails exactly as told, in the forms real upstreams use."""

import asyncio
from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.mock.reply import HELLO_WORLD, NOT_A_MODEL
from codellama_proxy.providers.mock.script import Script, script
from codellama_proxy.providers.openai import completions as text
from codellama_proxy.providers.openai import embeddings
from codellama_proxy.providers.registry import ADAPTERS
from codellama_proxy.upstream.http import TransportError
from codellama_proxy.upstream.mock_transport import MockTransport
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import fold, read

HERE = deployment("mock", provider="mock", base_url=None)
REPLY = "one two  three\nfour"


def played(mock: Mock, *, streamed: bool = False, prompt: Any = "hello", **params: Any) -> Script:
    asked = chat(stream=streamed, messages=[{"role": "user", "content": prompt}], params=params)
    return script(ADAPTERS["mock"].to_request(asked, HERE).body, mock)


def body(found: Script) -> bytes:
    return b"".join(piece for _, piece in found.pieces)


def completion(found: Script, *, streamed: bool) -> dict[str, Any]:
    """The answer as our own dialect reads it."""
    if streamed:
        events, complete = read(ADAPTERS["mock"], [body(found)], chat(stream=True, include_usage=True), HERE)
        assert complete
        return fold(events)
    return orjson.loads(ADAPTERS["mock"].parse_response(body(found), chat(), HERE).body)  # type: ignore[no-any-return]  # JSON


@pytest.mark.parametrize("streamed", [False, True])
def test_the_mock_gives_the_configured_reply(streamed: bool) -> None:
    found = played(Mock(reply=REPLY), streamed=streamed)
    assert (found.status, found.cut) == (200, False)
    answer = completion(found, streamed=streamed)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == REPLY
    assert choice["finish_reason"] == "stop"
    assert answer["model"] == "mock-upstream"
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] > 0
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 4


def test_plain_and_streamed_answers_have_the_same_text_and_cost() -> None:
    whole, streamed = (completion(played(Mock(), streamed=s), streamed=s) for s in (False, True))
    assert whole == streamed


@pytest.mark.parametrize(
    ("prompt", "greets"),
    [
        ("write a hello world", True),
        ("HELLO, WORLD?", True),
        ([{"type": "text", "text": "hello"}, {"type": "text", "text": "world"}], True),
        ([{"type": "image_url", "image_url": {"url": "x"}}], False),
        ("sort a list", False),
        ("", False),
    ],
)
def test_the_default_reply_explains_that_no_model_answers(prompt: Any, greets: bool) -> None:
    content = completion(played(Mock(), prompt=prompt), streamed=False)["choices"][0]["message"]["content"]
    assert content.endswith(NOT_A_MODEL)
    assert content.startswith(HELLO_WORLD) is greets


@pytest.mark.parametrize("streamed", [False, True])
def test_the_mock_returns_n_choices(streamed: bool) -> None:
    answer = completion(played(Mock(reply=REPLY), streamed=streamed, n=3), streamed=streamed)
    assert [choice["message"]["content"] for choice in answer["choices"]] == [REPLY] * 3
    assert answer["usage"]["completion_tokens"] == 12


def test_an_empty_reply_is_an_empty_answer() -> None:
    assert completion(played(Mock(reply="")), streamed=False)["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize("streamed", [False, True])
def test_the_mock_waits_the_configured_time(streamed: bool) -> None:
    found = played(Mock(reply=REPLY, first_token_delay=2.0, tokens_per_second=4.0), streamed=streamed)
    delays = [delay for delay, _ in found.pieces]
    assert sum(delays) == pytest.approx(3.0)
    assert delays == ([2.0, 0.25, 0.25, 0.25, 0.25, 0.0] if streamed else [3.0])


@each("streamed", [False, True])
@each(("status", "retry_after"), [(500, None), (429, 3.0), (429, 1_500_000.0), (401, None)])
def test_the_mock_fails_with_the_configured_status(
    status: int, retry_after: float | None, streamed: bool
) -> None:
    found = played(Mock(status=status, retry_after=retry_after, first_token_delay=1.0), streamed=streamed)
    assert found.status == status
    assert orjson.loads(body(found))["error"]["message"] == f"The mock was told to answer {status}."
    assert found.headers["content-type"] == "application/json"
    assert [delay for delay, _ in found.pieces] == [1.0]
    given = found.headers.get("retry-after")
    assert (float(given) if given else None) == retry_after


def test_status_200_is_an_answer() -> None:
    assert played(Mock(status=200, reply=REPLY)).status == 200


def test_a_stream_is_cut_after_the_configured_tokens() -> None:
    found = played(Mock(reply=REPLY, cut_after_tokens=2), streamed=True)
    assert found.cut
    events, complete = read(ADAPTERS["mock"], [body(found)], chat(stream=True), HERE)
    assert not complete
    assert "".join(event.text for event in events) == "one two  "


def test_a_cut_plain_answer_fails() -> None:
    found = played(Mock(reply=REPLY, cut_after_tokens=0))
    assert found.cut
    with pytest.raises(AttemptError):
        ADAPTERS["mock"].parse_response(body(found), chat(), HERE)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cut_beyond_the_end_has_no_effect(streamed: bool) -> None:
    found = played(Mock(reply=REPLY, cut_after_tokens=4), streamed=streamed)
    assert not found.cut
    assert completion(found, streamed=streamed)["choices"][0]["message"]["content"] == REPLY


@pytest.mark.parametrize("cut", [None, 2])
def test_the_mock_transport_plays_the_script(cut: int | None) -> None:
    mock = Mock(reply=REPLY, cut_after_tokens=cut)
    request = ADAPTERS["mock"].to_request(chat(stream=True), HERE)

    async def main() -> tuple[bytes, bool]:
        answer = await MockTransport(mock).send(request, 5.0)
        received = b""
        try:
            async for piece in answer.body:
                received += piece
        except TransportError:
            return received, True
        return received, False

    assert asyncio.run(main()) == (body(script(request.body, mock)), cut is not None)


# --- what is no chat -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_the_mock_completes_each_prompt_n_times(streamed: bool) -> None:
    params = {"prompt": ["x", "y"], "n": 2}
    asked = chat(endpoint="completions", messages=(), stream=streamed, params=params)
    found = body(script(text.to_request(asked, HERE).body, Mock(reply=REPLY), "completions"))
    if streamed:
        events, complete = read(text, [found], asked, HERE)
        assert complete
    else:
        events = [text.parse_response(found, asked, HERE)]
    prompt = ["", "", "", ""]
    for event in events:
        for choice in orjson.loads(event.body)["choices"] if event.body else ():
            prompt[choice["index"]] += choice["text"]
    assert prompt == [REPLY] * 4
    usage = next(event.usage for event in events if event.usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 16)


GOOD = Mock()


def embedded(given: Any, mock: Mock = GOOD, **params: Any) -> Script:
    asked = chat(endpoint="embeddings", messages=(), params={"input": given, **params})
    return script(embeddings.to_request(asked, HERE).body, mock, "embeddings")


def test_mock_vectors_depend_only_on_the_input() -> None:
    data = orjson.loads(body(embedded(["a", "b", "a", [1, 2]], dimensions=8)))["data"]
    one, other, again, ids = (entry["embedding"] for entry in data)
    assert one == again
    assert len({tuple(vector) for vector in (one, other, ids)}) == 3
    assert all(len(vector) == 8 for vector in (one, other, ids))


def test_the_mocks_work_is_bounded() -> None:
    assert embedded(["x"] * 2000, dimensions=4096).status == 400
    many = chat(endpoint="completions", messages=(), params={"prompt": ["x"] * 2000, "n": 128})
    assert script(text.to_request(many, HERE).body, GOOD, "completions").status == 400
    assert len(orjson.loads(body(embedded("x", dimensions=2**31 - 1)))["data"][0]["embedding"]) == 4096


def test_the_mock_fails_other_endpoints_as_configured() -> None:
    assert embedded("x", Mock(status=429, retry_after=7)).status == 429
    assert embedded("x", Mock(cut_after_tokens=1)).cut
    assert not embedded("x").cut
