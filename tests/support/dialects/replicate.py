"""What Replicate says, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.types import Usage
from tests.support.conversations import Answer, Dialogue

METRICS = {"predict_time": 1.5, "input_token_count": 20, "output_token_count": 7, "time_to_first_token": 0.2}


def prediction(status: str, output: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "p1",
        "model": "owner/name",
        "version": "hidden",
        "status": status,
        "output": output,
        "error": None,
        "logs": "",
        "metrics": METRICS if status == "succeeded" else {},
        "urls": {"get": "https://api.replicate.com/v1/predictions/p1"},
        **more,
    }


def event(name: str, data: str) -> bytes:
    """Every line of the data has a field of its own."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: 1690212292:0\n{lines}\n".encode()


def whole(found: Mapping[str, Any]) -> bytes:
    """A whole prediction within a stream."""
    return b"event: whole\ndata: " + orjson.dumps(found) + b"\n\n"


def answer(pieces: Sequence[str]) -> Answer:
    stream = [
        whole(prediction("starting")),
        *(event("output", piece) for piece in pieces),
        event("logs", "warming up"),
        event("done", "{}"),
        whole(prediction("succeeded", pieces)),
    ]
    return Answer(orjson.dumps(prediction("succeeded", pieces)), b"".join(stream), "".join(pieces))


def polled(pieces: Sequence[str]) -> Answer:
    """Where there is nothing to follow: what is new is what the last answer did not have."""
    stream = [
        whole(prediction("starting")),
        *(whole(prediction("processing", pieces[:count])) for count in range(1, len(pieces))),
        whole(prediction("succeeded", pieces)),
    ]
    return Answer(orjson.dumps(prediction("succeeded", "".join(pieces))), b"".join(stream), "".join(pieces))


def cut(pieces: Sequence[str]) -> Answer:
    """A stream that breaks off in the middle is completed from the prediction."""
    stream = event("output", pieces[0]) + whole(prediction("succeeded", pieces))
    return Answer(orjson.dumps(prediction("succeeded", pieces)), stream, "".join(pieces))


def first_system(body: Mapping[str, Any]) -> str:
    return str(body["input"].get("system_prompt", body["input"]["prompt"]))


PIECES = ("def hej():\n", "    print(", '"世界 🌍")\n\n')

DIALOGUE = Dialogue(
    answers={"text": answer(PIECES), "polled": polled(PIECES), "cut": cut(PIECES)},
    errors=(
        event("error", '{"detail": "CUDA out of memory"}'),
        event("done", '{"reason": "error"}'),
        event("done", '{"reason": "canceled"}'),
        whole(prediction("failed", error="It broke.")),
        whole(prediction("canceled")),
        whole(prediction("aborted")),
    ),
    first_system=first_system,
    usage=Usage(20, 7),
)
