"""Random faults at random upstreams: no answer ever mixes two of them, and the books always say what happened."""

import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Price, Routing
from codellama_proxy.upstream.connection import ConnectionLostError
from codellama_proxy.upstream.dial import DialError, DialTimeoutError
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import USAGE, sse
from tests.support.fake_internet import Internet, Script, answer, refusal, stream
from tests.support.gateway_harness import Client, Rig, run

NAMES = "abc"
PRICE = Price(input=1_000_000_000, output=2_000_000_000)
SETTING = snapshot(
    *(model(name, deployment(name, price=PRICE)) for name in NAMES), routing=Routing(max_attempts=6)
)
WORDS = 8


def text(name: str) -> str:
    """What an upstream says: its own name, again and again."""
    return "".join(f"{name}{n} " for n in range(WORDS))


def whole(name: str) -> bytes:
    message = {"role": "assistant", "content": text(name)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    head = {"id": f"id-{name}", "object": "chat.completion", "created": 1, "model": name}
    return orjson.dumps({**head, "choices": choices, "usage": USAGE})


def chunks(name: str) -> list[bytes]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        head = {"id": f"id-{name}", "object": "chat.completion.chunk", "created": 1, "model": name}
        return sse({**head, "choices": choices})

    word_chunks = [chunk({"content": f"{name}{n} "}) for n in range(WORDS)]
    usage = {"id": f"id-{name}", "created": 1, "model": name, "choices": [], "usage": USAGE}
    return [
        chunk({"role": "assistant", "content": ""}),
        *word_chunks,
        chunk({}, "stop"),
        sse(usage, b"[DONE]"),
    ]


def pieces(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in cuts)})
    return [raw[a:b] for a, b in pairwise(edges)]


REFUSALS = st.sampled_from(
    [
        refusal(500),
        refusal(429),
        refusal(429, retry_after="1"),
        refusal(401),
        refusal(400, "maximum context length"),
        refusal(400, "not like this"),
        answer(b"<html>"),
        answer(b'{"error": {"message": "overloaded"}}'),
        answer(b"", status=302, location="http://169.254.169.254/"),
        DialError("refused"),
        ConnectionLostError("gone"),
        DialTimeoutError("slow"),
    ]
)
ENDINGS = st.sampled_from(
    [[], [ConnectionLostError("cut")], [sse({"error": {"message": "overloaded"}})], [b"data: {"]]
)


@st.composite
def broken(draw: Any, name: str, *, streamed: bool) -> Script:
    """An answer that begins and, at a random place, does not go on."""
    raw = b"".join(chunks(name)) if streamed else whole(name)
    kept = raw[: draw(st.integers(0, len(raw)))]
    word_chunks = pieces(kept, draw(st.lists(st.integers(0, 5000), max_size=5)))
    return (stream if streamed else answer)(*word_chunks, *draw(ENDINGS))


def plans(streamed: bool) -> st.SearchStrategy[dict[str, list[Script | Exception]]]:
    """For each upstream, how it answers its first calls, and ever after."""

    def of(name: str) -> st.SearchStrategy[list[Script | Exception]]:
        good = stream(*chunks(name)) if streamed else answer(whole(name))
        one: st.SearchStrategy[Any] = REFUSALS | broken(name, streamed=streamed) | st.just(good)
        return st.lists(one, min_size=1, max_size=3)

    return st.fixed_dictionaries({name: of(name) for name in NAMES})


def check_what_the_client_got(client: Client, row: dict[str, Any]) -> None:
    if client.status != 200:
        error = client.json["error"]
        listed = [{name: one[name] for name in ("deployment", "class", "status")} for one in row["attempts"]]
        assert error["attempts"] == listed
        assert (row["status"], row["http_status"]) == ("error", client.status)
        return
    name = client.headers["x-proxy-model"]
    assert text(name).startswith(client.answer_text), "not a byte of another deployment"
    assert row["model"] == row["upstream_model"] == name
    assert row["http_status"] == 200
    if client.headers["content-type"] == "application/json":
        complete = True
        assert client.json["id"] == f"id-{name}"
    else:
        *shown, last = client.events
        complete = last is None
        assert {event["id"] for event in shown} == {f"id-{name}"}
        assert complete or last["error"]["code"] in ("upstream_error", "upstream_invalid_response")
    assert row["status"] == ("ok" if complete else "error")
    assert row["attempts"][-1]["class"] == "ok" or not complete
    assert not complete or client.answer_text == text(name)


@pytest.mark.parametrize("streamed", [False, True])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_fault_plan_mixes_answers_or_ledger_entries(data: st.DataObject, streamed: bool) -> None:
    internet = Internet(**data.draw(plans(streamed)))

    async def use(rig: Rig) -> None:
        client = await rig.ask(stream=streamed)
        assert client.ended
        row = await rig.row(client)
        check_what_the_client_got(client, row)
        assert [one["deployment"] for one in row["attempts"]] == internet.asked
        assert len(internet.asked) <= SETTING.routing.max_attempts
        assert client.headers["x-proxy-attempts"] == str(len(internet.asked))
        assert rig.systems() == [["Only code."]] * len(internet.asked)
        assert row["cost_usd"] is not None
        paid = [one for one in row["attempts"] if one["cost_usd"]]
        assert bool(paid) is (client.status == 200 or row["basis"] in ("ambiguous", "estimated"))
        for name in ("prompt_tokens", "completion_tokens"):
            assert row[name] == sum(one[name] for one in row["attempts"])
        assert row["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in paid), abs=1e-12)

    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), SETTING, internet, use)
