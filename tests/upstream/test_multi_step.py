"""Answers that take several requests, over a fake internet: one response, and nothing left running upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from codellama_proxy.core.snapshot import Deployment, Timeouts
from codellama_proxy.core.types import Event, Failure, HttpRequest, Step, StepResponse, Steps
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.replicate import predictions as replicate
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.connection import ConnectionLostError, ProtocolError
from codellama_proxy.upstream.dial import DialError
from codellama_proxy.upstream.http import BytesBody, Response
from codellama_proxy.upstream.multi_step import open_multi_step
from codellama_proxy.upstream.pools import Pools
from tests.support.attempt_driver import answer_text
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.dialects.replicate import event, prediction
from tests.support.fake_internet import HANG, Internet, Script, answer, refusal, stream

R = deployment("r", provider="replicate", base_url=None, model="owner/name")
FOLLOWED = {"urls": {"stream": "https://stream.replicate.com/v1/files/abc"}}


def prediction_response(status: str, output: Any = None, code: int = 200, **more: Any) -> Script:
    return answer(orjson.dumps(prediction(status, output, **more)), status=code)


def created(**more: Any) -> Script:
    return prediction_response("starting", code=201, **more)


async def at_once(_: float) -> None:
    """Waits between questions are policy: no test waits for them."""


class Talk:
    """One attempt at Replicate, and what went over the wire."""

    def __init__(self, *scripts: Script | Exception | None, where: Deployment = R) -> None:
        self.internet = Internet(r=scripts)
        self.where = where

    def attempt(self, *, streamed: bool, idle: float = 5.0) -> tuple[list[Event], Failure | None]:
        """Its events, and the failure that ended it."""

        async def main() -> tuple[list[Event], Failure | None]:
            pools = Pools(self.internet.make)
            asked = chat(stream=streamed)
            sent = replicate.to_request(asked, self.where)
            events: list[Event] = []
            try:
                reply = await open_reply(pools, sent, asked, self.where, 5.0, at_once)
            except AttemptError as failed:
                return events, failed.failure
            events += reply.first
            try:
                while not reply.ended:
                    events += await reply.more(idle)
            except AttemptError as failed:
                return events, failed.failure
            finally:
                await reply.close()
                assert pools.of(self.where).users == 0
            return events, None

        found = asyncio.run(main())
        assert all(body.closed for body in self.internet.bodies)
        return found

    @property
    def paths(self) -> list[str]:
        return [f"{one.request.method} {urlsplit(one.request.url).path}" for one in self.internet.sent]

    @property
    def cancelled(self) -> bool:
        return self.paths[-1] == "POST /v1/predictions/p1/cancel"


CREATE = "POST /v1/models/owner/name/predictions"
ASK = "GET /v1/predictions/p1"
FOLLOW = "GET /v1/files/abc"


def test_a_fast_answer_takes_one_request() -> None:
    talk = Talk(prediction_response("succeeded", ["Hel", "lo"], code=201))
    events, failed = talk.attempt(streamed=False)
    assert failed is None
    assert answer_text(events) == "Hello"
    assert talk.paths == [CREATE]
    headers = talk.internet.sent[0].request.headers
    assert (headers["prefer"], headers["cancel-after"]) == ("wait=5", "180s")


def test_a_slow_answer_is_polled() -> None:
    talk = Talk(created(), prediction_response("succeeded", "Hello"))
    events, failed = talk.attempt(streamed=False)
    assert (answer_text(events), failed) == ("Hello", None)
    assert talk.paths == [CREATE, ASK]
    assert talk.internet.sent[1].request.headers["authorization"] == "Bearer sk-upstream-secret"


def test_a_stream_is_followed_and_its_usage_requested() -> None:
    said_there = event("output", "Hel") + event("output", "lo\n") + event("done", "{}")
    talk = Talk(created(**FOLLOWED), stream(said_there), prediction_response("succeeded", ["Hel", "lo\n"]))
    events, failed = talk.attempt(streamed=True)
    assert (answer_text(events), failed) == ("Hello\n", None)
    assert talk.paths == [CREATE, FOLLOW, ASK]
    assert "prefer" not in talk.internet.sent[0].request.headers
    followed = talk.internet.sent[1].request
    assert urlsplit(followed.url).hostname == "stream.replicate.com"
    assert followed.headers["accept"] == "text/event-stream"
    assert [e.usage.completion_tokens for e in events if e.usage] == [7]
    assert [e.finish_reason for e in events if e.finish_reason] == ["stop"]


def test_a_stream_without_url_is_polled() -> None:
    talk = Talk(
        created(), prediction_response("processing", ["Hel"]), prediction_response("succeeded", ["Hel", "lo"])
    )
    events, failed = talk.attempt(streamed=True)
    assert failed is None
    assert [e.text for e in events if e.text] == ["Hel", "lo"]
    assert talk.paths == [CREATE, ASK, ASK]


@each(
    "url",
    [
        "https://evil.example/stream",
        "http://stream.replicate.com/x",
        "https://replicate.com.evil.example/x",
        "https://evilreplicate.com/x",
        "https://user@stream.replicate.com/x",
        "https://stream.replicate.com:8443/x",
        "https://[::1/x",
        "",
        5,
    ],
)
def test_the_token_is_not_sent_to_other_hosts(url: Any) -> None:
    talk = Talk(
        created(urls={"stream": url, "get": url, "cancel": url}), prediction_response("succeeded", "Hello")
    )
    events, _ = talk.attempt(streamed=True)
    assert answer_text(events) == "Hello"
    assert {urlsplit(one.request.url).hostname for one in talk.internet.sent} == {"api.replicate.com"}


def test_the_token_is_sent_to_the_entrys_host() -> None:
    own = deployment("r", provider="replicate", base_url="http://10.0.0.9:5000/v1", model="owner/name")
    urls = {"stream": "http://10.0.0.9:5000/stream/p1"}
    rest = [stream(event("output", "Hi") + event("done", "{}")), prediction_response("succeeded", "Hi")]
    talk = Talk(created(urls=urls), *rest, where=own)
    events, _ = talk.attempt(streamed=True)
    assert answer_text(events) == "Hi"
    assert talk.paths[1] == "GET /stream/p1"


@pytest.mark.parametrize("name", ["../account", "", None, "a/b", "p?x"])
def test_an_invalid_prediction_id_is_not_put_into_a_url(name: Any) -> None:
    for streamed in (False, True):
        talk = Talk(answer(orjson.dumps(prediction("starting", id=name)), status=201))
        _, failed = talk.attempt(streamed=streamed)
        assert failed is not None
        assert failed.cls == "disguised"
        assert len(talk.paths) == 1


@each("streamed", [False, True])
@each(
    ("script", "cls", "reason"),
    [
        (refusal(422), "caller", "http_422"),
        (refusal(401), "credential", "http_401"),
        (refusal(429, retry_after="3"), "busy", "http_429"),
        (refusal(503), "transient", "http_503"),
        (DialError("no"), "transient", "connect"),
    ],
)
def test_a_refused_prediction_is_a_failed_attempt(
    script: Script | Exception, cls: str, reason: str, streamed: bool
) -> None:
    talk = Talk(script)
    _, failed = talk.attempt(streamed=streamed)
    assert failed is not None
    assert (failed.cls, failed.reason) == (cls, reason)
    assert failed.retry_after == (3.0 if cls == "busy" else None)
    assert talk.paths == [CREATE]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failed_prediction_is_a_failed_attempt(streamed: bool) -> None:
    for error, reason in [
        ("CUDA out of memory", "error_in_200"),
        ("The prompt is too long: exceeds maximum context length", "context_length"),
        ("NSFW content detected", "content_filter"),
    ]:
        talk = Talk(created(), prediction_response("failed", error=error))
        _, failed = talk.attempt(streamed=streamed)
        assert failed is not None
        assert failed.reason == reason
        assert talk.paths == [CREATE, ASK], "what is over is not cancelled"


def test_polling_tolerates_a_few_errors() -> None:
    talk = Talk(created(), refusal(503), prediction_response("succeeded", "Hello"))
    assert answer_text(talk.attempt(streamed=False)[0]) == "Hello"
    talk = Talk(created(), refusal(404))
    _, failed = talk.attempt(streamed=False)
    assert failed is not None
    assert failed.status == 404
    assert talk.paths == [CREATE, ASK]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_timeout_cancels_the_prediction(streamed: bool) -> None:
    hasty = deployment(
        "r",
        provider="replicate",
        base_url=None,
        model="owner/name",
        timeouts=Timeouts(first_token=0.05, answer=0.05),
    )
    talk = Talk(created(), None, answer(b""), where=hasty)
    _, failed = talk.attempt(streamed=streamed)
    assert failed is not None
    assert failed.code == "upstream_timeout"
    assert talk.paths == [CREATE, ASK, "POST /v1/predictions/p1/cancel"]


def test_a_stalled_stream_is_cancelled() -> None:
    talk = Talk(created(**FOLLOWED), stream(event("output", "Hel"), HANG), answer(b""))
    events, failed = talk.attempt(streamed=True, idle=0.05)
    assert answer_text(events) == "Hel"
    assert failed is not None
    assert failed.reason == "idle_timeout"
    assert talk.cancelled


def test_a_broken_stream_is_cancelled() -> None:
    broken = stream(event("output", "Hel"), ProtocolError("cut"))
    talk = Talk(created(**FOLLOWED), broken, answer(b""))
    events, failed = talk.attempt(streamed=True)
    assert answer_text(events) == "Hel"
    assert failed is not None
    assert talk.cancelled


def test_a_truncated_stream_is_completed_from_the_prediction() -> None:
    talk = Talk(
        created(**FOLLOWED),
        stream(b"event: output\ndata: Hel"),
        prediction_response("processing", ["Hel", "l"]),
        prediction_response("succeeded", ["Hel", "l", "o"]),
    )
    events, failed = talk.attempt(streamed=True)
    assert failed is None
    assert [e.text for e in events if e.text] == ["Hel", "l", "o"]


def test_a_complete_stream_succeeds_without_usage() -> None:
    done = stream(event("output", "Hello") + event("done", "{}"))
    for rest in (refusal(500), ConnectionLostError("no")):
        talk = Talk(created(**FOLLOWED), done, rest)
        events, failed = talk.attempt(streamed=True)
        assert (answer_text(events), failed) == ("Hello", None)
        assert not [e for e in events if e.usage]
        assert [e.finish_reason for e in events if e.finish_reason] == ["stop"]


def test_a_stream_that_cannot_be_opened_is_polled() -> None:
    talk = Talk(created(**FOLLOWED), refusal(502), prediction_response("succeeded", "Hello"))
    events, failed = talk.attempt(streamed=True)
    assert (answer_text(events), failed) == ("Hello", None)
    assert talk.paths == [CREATE, FOLLOW, ASK]


def test_polling_delays_grow_up_to_a_maximum() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    pending = orjson.dumps(prediction("processing"))
    bodies = [*[pending] * 9, orjson.dumps(prediction("succeeded", "x"))]
    assert run(bodies, sleep) == bodies[-1]
    assert waits == [0.5, 0.75, 1.125, 1.6875, 2.53125, 3.796875, 5.0, 5.0, 5.0]


async def whole_of(response: Response) -> bytes:
    return b"".join([piece async for piece in response.body])


def run(bodies: Sequence[bytes], sleep: Any) -> bytes:
    left = list(bodies)

    async def send(_: HttpRequest) -> Response:
        return Response(200, {}, BytesBody(left.pop(0)))

    async def main() -> bytes:
        asked = chat()
        steps = replicate.steps(replicate.to_request(asked, R), asked, R)
        response = await open_multi_step(send, whole_of, steps, stream=False, sleep=sleep)
        return await whole_of(response)

    return asyncio.run(main())


def test_every_dialect_may_use_several_requests() -> None:
    seen: list[StepResponse] = []

    def steps() -> Steps:
        for number in range(3):
            answered = yield Step(HttpRequest(f"https://a.example/{number}", {}, b""))
            seen.append(answered)

    async def send(request: HttpRequest) -> Response:
        return Response(202, {}, BytesBody(request.url[-1:].encode()))

    async def main() -> tuple[int, bytes]:
        response = await open_multi_step(send, whole_of, steps(), stream=False)
        return response.status, await whole_of(response)

    assert asyncio.run(main()) == (200, b"2")
    assert [one.body for one in seen] == [b"0", b"1", b"2"]
