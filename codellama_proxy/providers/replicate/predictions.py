"""Replicate: a prediction is created, then polled or streamed, and cancelled if no client waits.

`parse_stream` also receives predictions, as events of type `whole` (see `upstream.multi_step`): the first one, which
may already be complete; every polled one if there is no stream, of which only the new text is sent; and the one after
a stream, for its usage and for text that a broken stream did not deliver.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from codellama_proxy.core.snapshot import Deployment, Json
from codellama_proxy.core.sse import DONE, Frame
from codellama_proxy.core.types import Event, Failure, HttpRequest, Step, StepResponse, Steps
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.failures.error_body import UpstreamError, parse_error
from codellama_proxy.openai_format.completion import CHAT_CHUNK
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import read_usage
from codellama_proxy.providers.common import answers as shape
from codellama_proxy.providers.common.identity import bearer_headers
from codellama_proxy.providers.common.json_reading import load_object, text_at, wrong
from codellama_proxy.providers.replicate.request import base_url, to_request

__all__ = ["parse_response", "parse_stream", "steps", "to_request"]

PENDING = frozenset({"starting", "processing"})
BROKEN = frozenset({"failed", "canceled", "aborted"})
FLAGGED = ("nsfw", "flagged")
STREAM_HOSTS = (".replicate.com", ".replicate.net")
"""Hosts whose streams are read in addition to the entry's host; they receive the API token."""
IDENTIFIER = re.compile(r"[\w-]{1,64}", re.ASCII)
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS, WAIT_FACTOR = 0.5, 5.0, 1.5
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
MAX_FAILED_POLLS = 3
"""Number of failed polls that are tolerated."""


# --- the exchange --------------------------------------------------------------------------------------------


def steps(sent: HttpRequest, chat: InferenceRequest, deployment: Deployment) -> Steps:
    """Creates a prediction, then reads its stream or polls until it has ended."""
    found = _prediction((yield Step(sent)))
    if found is None:
        return
    poll, cancel = _requests(found, deployment)
    wait, failed_polls = FIRST_WAIT_SECONDS, 0
    stream = _stream(found, deployment) if chat.stream else None
    if stream is not None and _pending(found):
        yield Step(stream, give_up=cancel)
        found = _prediction((yield Step(poll, give_up=cancel, optional=True))) or found
    while _pending(found):
        response = yield Step(poll, delay=wait, give_up=cancel)
        wait = min(wait * WAIT_FACTOR, MAX_WAIT_SECONDS)
        if (latest := _prediction(response)) is None:
            failed_polls += 1
            if failed_polls > MAX_FAILED_POLLS or response.status not in TRANSIENT:
                return
        found = latest or found


def _prediction(response: StepResponse) -> Json | None:
    """The prediction in a response; `None` if there is none."""
    try:
        found = orjson.loads(response.body) if 200 <= response.status < 300 else None
    except orjson.JSONDecodeError:
        return None
    is_one = isinstance(found, dict) and IDENTIFIER.fullmatch(text_at(found, "id"))
    return found if is_one else None


def _pending(found: Json) -> bool:
    return text_at(found, "status") in PENDING


def _requests(found: Json, deployment: Deployment) -> tuple[HttpRequest, HttpRequest]:
    """The requests to poll and to cancel it, at URLs that we build ourselves."""
    url = f"{base_url(deployment)}/predictions/{found['id']}"
    headers = bearer_headers(deployment)
    return HttpRequest(url, headers, b"", "GET"), HttpRequest(f"{url}/cancel", headers, b"")


def _stream(found: Json, deployment: Deployment) -> HttpRequest | None:
    """The request for its stream; `None` if it has none or the host must not get the API token."""
    url = text_at(found, "urls", "stream")
    if not _may_send_token(url, deployment):
        return None
    headers = {"accept": "text/event-stream", "cache-control": "no-store", **bearer_headers(deployment)}
    return HttpRequest(url, headers, b"", "GET")


def _may_send_token(url: str, deployment: Deployment) -> bool:
    try:
        found, base = urlsplit(url), urlsplit(base_url(deployment))
        if (found.scheme, found.hostname, found.port) == (base.scheme, base.hostname, base.port):
            return "@" not in found.netloc
        plain = found.scheme == "https" and found.port in (None, 443) and "@" not in found.netloc
    except ValueError:
        return False
    return plain and f".{found.hostname}".endswith(STREAM_HOSTS)


# --- answers -------------------------------------------------------------------------------------------------


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A finished prediction as one event. Raises `AttemptError` if it failed or is invalid."""
    found = load_object(body)
    _check(found)
    if text_at(found, "status") != "succeeded":
        raise AttemptError(failures.disguised("not_succeeded", status=200))
    text = _output(found)
    first = shape.head("chat.completion", f"chatcmpl-{chat.id}", chat.created, deployment.model)
    return shape.completion(first, {"content": text}, "stop", _usage(found), text)


def _check(found: Json) -> None:
    """Raises `AttemptError` for a prediction that failed."""
    if text_at(found, "status") in BROKEN:
        raise AttemptError(_failure(text_at(found, "error")))


def _failure(message: str) -> Failure:
    flagged = any(word in message.lower() for word in FLAGGED)
    return failures.in_band(UpstreamError(message, code="content_filter" if flagged else ""), 200)


def _output(found: Json) -> str:
    """The output text, from a string or a list of pieces. Raises `AttemptError` for anything else."""
    output = found.get("output")
    pieces = [piece for piece in (output if isinstance(output, list) else [output]) if piece is not None]
    if not all(isinstance(piece, str) for piece in pieces):
        wrong("not_a_text")
    return "".join(pieces)


def _usage(found: Json) -> dict[str, Any] | None:
    read = read_usage(found.get("metrics"))
    return None if read is None else shape.usage_json(read)


# --- streams -------------------------------------------------------------------------------------------------


Pieces = tuple[Any, str] | None
"""A linked list of the pieces of the text, latest first; joined only when needed."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What parsing the next frame depends on."""

    first: Json | None = None
    """The fields that every chunk begins with; `None` before the first one."""
    pieces: Pieces = None
    finished: bool = False
    """Whether the finish reason was sent."""
    done: bool = False

    @property
    def complete(self) -> bool:
        return self.finished


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
    state = state or StreamState()
    if frame.event == "output":
        return _text_events(state, frame.data.decode("utf-8", "replace"), chat, deployment)
    if frame.event == "error":
        raise AttemptError(_failure(parse_error(frame.data).message))
    if frame.event == "done":
        return _finish(state, frame.data, chat, deployment)
    if frame.event == "whole":
        return _compare(state, frame.data, chat, deployment)
    return replace(state, done=state.done or frame.data == DONE), ()


def _text_events(
    state: StreamState, text: str, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, list[Event]]:
    events: list[Event] = []
    first = state.first
    if first is None:
        first = shape.head(CHAT_CHUNK, f"chatcmpl-{chat.id}", chat.created, deployment.model)
        events.append(shape.opening(first))
    if text:
        events.append(shape.chunk(first, {"content": text}, text=text))
    return replace(state, first=first, pieces=(state.pieces, text) if text else state.pieces), events


def _joined(pieces: Pieces) -> str:
    texts: list[str] = []
    while pieces is not None:
        pieces, text = pieces
        texts.append(text)
    return "".join(reversed(texts))


def _finish(
    state: StreamState, data: bytes, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, list[Event]]:
    """Ends the text; the usage may follow."""
    if state.finished:
        return state, []
    if text_at(_loads(data), "reason") in ("error", "canceled"):
        raise AttemptError(failures.disguised("finish_error", status=200))
    state, events = _text_events(state, "", chat, deployment)
    return replace(state, finished=True), [
        *events,
        shape.chunk(state.first or {}, {}, finish_reason="stop"),
    ]


def _compare(
    state: StreamState, data: bytes, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, list[Event]]:
    """Events for a prediction: its new text and, if it has ended, the finish reason and the usage."""
    found = _loads(data)
    if not isinstance(found, dict):
        return state, []
    if not state.finished:
        _check(found)
    succeeded = text_at(found, "status") == "succeeded"
    events: list[Event] = []
    output, sent_text = _output(found), _joined(state.pieces)
    if not state.finished and output.startswith(sent_text) and (succeeded or output != sent_text):
        state, events = _text_events(state, output[len(sent_text) :], chat, deployment)
    if not succeeded and not state.finished:
        return state, events
    state, more = _finish(state, b"{}", chat, deployment)
    return replace(state, done=True), [*events, *more, *shape.closing(state.first or {}, _usage(found))]


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
