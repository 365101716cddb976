"""Replicate on loopback: predictions of a few models, with their words for the input checked.

The prompt's last line decides:
slow        takes a few questions
endless     never ends
fail        fails, `flag` for what it says, `overflow` because the prompt is too long
limited     is refused for now, `unwell` for no reason
hang up     streams a little, and the prediction ends all the same
break       streams a little, then an error
else        is repeated
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from tests.support.dialects.loopback import SSE, Asked, CannedResponse, need, only, told
from tests.support.dialects.replicate import event, prediction

KEY = "r8_of_the_tests"
VERSION = "ab" * 32
LLAMA = {
    *("prompt", "system_prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop_sequences"),
    *("presence_penalty", "frequency_penalty"),
}
INPUTS: Mapping[str, set[str]] = {
    "/models/meta/meta-llama-3-8b-instruct/predictions": LLAMA,
    "/models/openai/gpt-5/predictions": {
        *("messages", "max_completion_tokens", "temperature", "top_p", "reasoning_effort", "image_input"),
    },
    "/predictions": {"prompt", "max_tokens", "temperature", "top_p", "seed"},
}
FAULTS: Mapping[str, tuple[int, str]] = {
    "limited": (429, "Request was throttled. Expected available in 1 second."),
    "unwell": (500, "Internal error"),
}
ENDS: Mapping[str, str] = {
    "fail": "CUDA out of memory",
    "flag": "The input was flagged as sensitive.",
    "overflow": "Your prompt exceeds the maximum context length of 8192 tokens.",
}
QUESTIONS = 2
"""How often a slow prediction is asked after before it ends."""


class Predictions:
    """All there ever were, by id."""

    def __init__(self, origin: str = "") -> None:
        self.origin = origin
        self.texts: dict[str, str] = {}
        self.questions: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> CannedResponse:
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return told(401, {"title": "Unauthenticated", "detail": "You did not pass a valid token"})
        path = asked.path.removeprefix("/v1")
        if asked.method == "POST" and path in INPUTS:
            return self.create(asked, path)
        if asked.method == "POST" and path.endswith("/predictions"):
            return told(
                404, {"title": "", "detail": "The requested resource could not be found.", "status": 404}
            )
        name = path.split("/")[2] if path.count("/") > 1 else ""
        if name not in self.texts:
            return told(404, {"title": "Not found", "detail": f"no {path}", "status": 404})
        match asked.method, path.split("/")[1], path.split("/")[3:]:
            case "POST", "predictions", ["cancel"]:
                self.cancelled.add(name)
                return told(200, self.shown(name))
            case "GET", "stream", []:
                return self.stream(asked, name)
            case "GET", "predictions", []:
                return self.asked_after(name)
        return told(404, {"title": "Not found", "detail": f"no {asked.method} {path}"})

    def create(self, asked: Asked, path: str) -> CannedResponse:
        body = asked.body
        only(body, ("version", "input") if path == "/predictions" else ("input",), "body")
        need(path != "/predictions" or body["version"] == VERSION, "version does not exist")
        given = body["input"]
        only(given, INPUTS[path], "input")
        need(isinstance(given.get("stop_sequences", ""), str), "stop_sequences is a string")
        need(given.get("prompt") or given.get("messages"), "input: prompt is required")
        text = last_line(given)
        if text in FAULTS:
            status, why = FAULTS[text]
            return told(status, {"title": "No", "detail": why, "status": status}, retry_after="7")
        with self._lock:
            name = f"p{len(self.texts) + 1}"
            self.texts[name] = text
        waits = asked.headers.get("prefer", "").startswith("wait")
        over = waits and text not in ("slow", "endless")
        return told(201, self.shown(name, over=over))

    def asked_after(self, name: str) -> CannedResponse:
        self.questions[name] = self.questions.get(name, 0) + 1
        text = self.texts[name]
        late = text == "endless" or (text == "slow" and self.questions[name] < QUESTIONS)
        return told(200, self.shown(name, over=not late))

    def shown(self, name: str, *, over: bool = False) -> dict[str, Any]:
        """The prediction as it stands."""
        text = self.texts[name]
        status = "canceled" if name in self.cancelled else "starting"
        if over and name not in self.cancelled:
            status = "failed" if text in ENDS else "succeeded"
        urls = {
            "get": f"{self.origin}/v1/predictions/{name}",
            "cancel": f"{self.origin}/v1/predictions/{name}/cancel",
            "stream": f"{self.origin}/v1/stream/{name}",
        }
        output = ["You said: ", text] if status == "succeeded" else None
        return prediction(status, output, id=name, urls=urls, error=ENDS.get(text) if over else None)

    def stream(self, asked: Asked, name: str) -> CannedResponse:
        need(asked.headers.get("accept") == "text/event-stream", "accept")
        text = self.texts[name]
        begun: list[bytes | float] = [event("output", "You said: ")]
        if text in ENDS:
            return CannedResponse(200, [event("error", json.dumps({"detail": ENDS[text]}))], SSE)
        if text == "hang up":
            return CannedResponse(200, [*begun, 0.1], SSE)
        if text == "break":
            return CannedResponse(200, [*begun, 0.1, event("error", '{"detail": "It broke."}')], SSE)
        if text == "endless":
            return CannedResponse(200, [*begun, *[0.05, b": still here\n\n"] * 200], SSE)
        return CannedResponse(200, [*begun, event("output", text), event("done", "{}")], SSE)


def last_line(given: Mapping[str, Any]) -> str:
    if "messages" in given:
        return str(given["messages"][-1]["content"])
    return str(given["prompt"]).rstrip().rpartition("\n")[2]
