"""Relays requests of OpenAI's Responses API: the client's body, and the upstream's answer, as they came.

The guardrail and other edits of the body are made before (`native.responses`). Answers are read on the way for text,
usage, the end and errors. (platform.openai.com/docs/api-reference/responses)
"""

from __future__ import annotations

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common.output_limits import narrowed
from codellama_proxy.providers.common.relayed import readable, with_frame
from codellama_proxy.providers.openai import responses_answer, responses_stream
from codellama_proxy.providers.openai.endpoint_urls import upstream_model
from codellama_proxy.providers.openai.responses_request import MIN_OUTPUT_TOKENS, request_to
from codellama_proxy.providers.openai.responses_stream import StreamState


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for the native form of `chat`."""
    assert chat.native is not None
    body = {**chat.native.body, "model": upstream_model(deployment)}
    if (most := narrowed(chat, deployment).max_tokens) is not None:
        body["max_output_tokens"] = max(most, MIN_OUTPUT_TOKENS)
    return request_to(deployment, orjson.dumps(body, default=dict))


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    return responses_answer.parse_response(body, chat, deployment)._replace(raw=readable(body))


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, list[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
    state, events = responses_stream.parse_stream(state, frame, chat, deployment)
    return state, list(with_frame(frame, events))
