"""Writes a chat's answer as a Responses answer, whole or as a stream of events.

The sequence of events is the one of OpenAI's own API: items are announced, added to and completed one after another,
and the last event has the whole answer. (platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.inbound.responses.assembly import Assembly
from codellama_proxy.inbound.responses.echo import echo_of
from codellama_proxy.inbound.responses.errors import failure_of
from codellama_proxy.inbound.responses.output import StreamEvent
from codellama_proxy.inbound.responses.relayed import RelayedStream
from codellama_proxy.inbound.responses.request import ENCRYPTED_REASONING
from codellama_proxy.inbound.responses.tools import offered
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.openai_format.completion import completion_in
from codellama_proxy.openai_format.folding import chunks_of
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import usage_in

INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of an answer that was cut, and OpenAI's words for them here."""


class ResponsesEncoder:
    """Writes one answer. `seals` are for clients that ask for them; without, reasoning is shown only."""

    form = None

    def __init__(self, request: InferenceRequest, seals: Seals | None = None) -> None:
        body = request.native.body if request.native is not None else {}
        include = body.get("include")
        wanted = isinstance(include, list) and ENCRYPTED_REASONING in include
        self._id = request.id.removeprefix("req_")
        self._created = request.created
        self._model = request.model or ""
        self._echo = echo_of(body)
        seal = seals.seal if wanted and seals is not None else None
        self._assembly = Assembly(self._id, lambda: offered(body).names, seal)
        self._relayed: RelayedStream | None = None
        self._begun = False
        self._sequence = 0
        self._usage: Usage | None = None
        self._finish: str | None = None

    def events(self, events: Sequence[Event], *, ended: bool) -> bytes:
        written: list[bytes] = []
        for event in events:
            if event.raw:
                self._relayed = self._relayed or RelayedStream()
                self._relayed.note(event.raw)
                written.append(event.raw)
        if self._relayed is None:
            written.append(self._add_events(events))
            written.append(self._end() if ended else b"")
        return b"".join(written)

    def whole(self, event: Event) -> bytes:
        if event.raw:
            return event.raw
        completion = completion_in(event)
        self._usage = event.usage or usage_in(completion)
        self._note_model(completion)
        choices = completion.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            message = choice.get("message")
            if not self._assembly.add_text_alone(message, choice.get("logprobs")):
                self._add_choice(choice, message)
            self._note_finish(choice)
        self._assembly.end(cut=self._finish in INCOMPLETE)
        return orjson.dumps(self._response(self._status()))

    def broken(self, error: ProxyError) -> bytes:
        """`response.failed`, the only form that Codex and the SDKs read."""
        failure = failure_of(error)
        if self._relayed is not None:
            return self._relayed.failed(failure)
        response = self._response("failed", error=failure)
        return self._begin() + self._write([("failed", {"response": response})])

    # --- chunks --------------------------------------------------------------------------------------------------

    def _add_events(self, events: Sequence[Event]) -> bytes:
        for event in events:
            self._usage = event.usage or self._usage
        added: list[StreamEvent] = []
        chunk: Mapping[str, Any] | None = None
        for chunk in chunks_of(events):
            self._note_model(chunk)
            if chunk.get("usage"):  # also the proxy's own count, which is in no `event.usage`
                self._usage = usage_in(chunk) or self._usage
            for choice in chunk.get("choices") or ():
                if not choice.get("index"):
                    added += self._add_choice(choice, choice.get("delta"))
        return b"" if chunk is None else self._begin() + self._write(added)

    def _note_finish(self, choice: Mapping[str, Any]) -> None:
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self._finish = finish

    def _add_choice(self, choice: Mapping[str, Any], message: object) -> Iterable[StreamEvent]:
        self._note_finish(choice)
        return self._assembly.add(message, choice.get("logprobs")) if isinstance(message, Mapping) else ()

    def _note_model(self, chunk: Mapping[str, Any]) -> None:
        model = chunk.get("model")
        if not self._begun and isinstance(model, str) and model:
            self._model = model

    # --- events --------------------------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        response = orjson.Fragment(orjson.dumps(self._response("in_progress")))
        return self._write([("created", {"response": response}), ("in_progress", {"response": response})])

    def _end(self) -> bytes:
        begun = self._begin()
        written = self._assembly.end(cut=self._finish in INCOMPLETE)
        status = self._status()
        return begun + self._write([*written, (status, {"response": self._response(status)})])

    def _write(self, events: Iterable[StreamEvent]) -> bytes:
        written = []
        for kind, fields in events:
            name = f"response.{kind}"
            data = orjson.dumps({"type": name, "sequence_number": self._sequence, **fields})
            self._sequence += 1
            written += [b"event: ", name.encode(), b"\ndata: ", data, b"\n\n"]
        return b"".join(written)

    # --- the answer ----------------------------------------------------------------------------------------------

    def _status(self) -> str:
        return "incomplete" if self._finish in INCOMPLETE else "completed"

    def _response(self, status: str, error: Mapping[str, str] | None = None) -> dict[str, Any]:
        reason = INCOMPLETE.get(self._finish or "") if status == "incomplete" else None
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._model,
            "output": [] if status == "in_progress" else self._assembly.shown(),
            **self._echo,
            "usage": None if self._usage is None or status == "in_progress" else usage_json(self._usage),
        }


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object of this API."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
