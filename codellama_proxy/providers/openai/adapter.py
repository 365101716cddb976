"""OpenAI's format, for OpenAI and every provider in `OPENAI_PROFILES`: pure functions on values.

Answers are relayed as the received bytes unless something in them could break a client: an unknown finish reason, a
missing tool-call index or id, another provider's reasoning field, or usage that the client did not request. Usage is
always requested, and sent to clients that requested it at the end of a stream. Legacy functions are sent as tools to
providers that do not support them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codellama_proxy.core.per_deployment import PerDeployment
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.openai import (
    request as openai_request,
)
from codellama_proxy.providers.openai import (
    response as openai_answer,
)
from codellama_proxy.providers.openai import (
    stream as openai_stream,
)
from codellama_proxy.providers.openai.endpoint_urls import chat_target
from codellama_proxy.providers.openai.profiles import OpenAIProfile, profile_of
from codellama_proxy.providers.openai.stream_state import StreamState


class OpenAIAdapter:
    """The adapter of the providers with a profile."""

    def __init__(self, dialects: Mapping[str, OpenAIProfile]) -> None:
        """`dialects`: the profiles by provider."""
        self._targets = PerDeployment(lambda one: chat_target(one, profile_of(one, dialects)))

    def to_request(self, chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
        """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
        target = self._targets.of(deployment)
        known = chat if target.dialect.functions else legacy.modern(chat)
        return openai_request.to_request(known, deployment, target)

    def parse_response(self, body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
        """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
        event = openai_answer.parse_response(body, chat, deployment)
        return (
            legacy.restored(event, chat) if legacy.is_legacy(chat) and self._translates(deployment) else event
        )

    def parse_stream(
        self, state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
    ) -> tuple[StreamState, Sequence[Event]]:
        """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
        state, events = openai_stream.parse_stream(state, frame, chat, deployment)
        if legacy.is_legacy(chat) and self._translates(deployment):
            events = [legacy.restored(event, chat) for event in events]
        return state, events

    def _translates(self, deployment: Deployment) -> bool:
        """Whether legacy functions are sent to it as tools."""
        return not self._targets.of(deployment).dialect.functions
