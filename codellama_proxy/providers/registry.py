"""Which module speaks which provider's dialect. Adding a provider is one file, or one row of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest, Steps
from codellama_proxy.openai_format.request import MODES, Endpoint, InferenceRequest
from codellama_proxy.providers import ai21
from codellama_proxy.providers.anthropic import adapter as anthropic
from codellama_proxy.providers.cohere import adapter as cohere
from codellama_proxy.providers.cohere import embeddings as cohere_embed
from codellama_proxy.providers.openai import adapter as openai
from codellama_proxy.providers.openai import completions as text
from codellama_proxy.providers.openai import embeddings
from codellama_proxy.providers.openai.completions_profiles import COMPLETION_PROFILES
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES, OpenAIProfile
from codellama_proxy.providers.replicate import predictions as replicate


class Adapter(Protocol):
    """A dialect: three pure functions of a module. All raise `AttemptError` for what is not an answer."""

    def to_request(self, chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
        """What is sent. Raises `ProxyError` unsupported_parameter."""

    def parse_response(self, body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
        """A whole answer as one event."""

    def parse_stream(
        self, state: Any, frame: Frame, chat: InferenceRequest, deployment: Deployment
    ) -> tuple[Any, Sequence[Event]]:
        """One frame's events, and the state for the next; `None` begins. The state tells `done` and `complete`."""


def adapters(dialects: Mapping[str, OpenAIProfile], natives: Mapping[str, Adapter]) -> Mapping[str, Adapter]:
    """By provider: who has a row in the table of those that speak OpenAI's dialect, and who has a file."""
    return {**dict.fromkeys(dialects, openai.OpenAIAdapter(dialects)), **natives}


NATIVE_ADAPTERS: Mapping[str, Adapter] = {
    "ai21": ai21,
    "anthropic": anthropic,
    "cohere": cohere,
    "replicate": replicate,
}
ADAPTERS = adapters(OPENAI_PROFILES, NATIVE_ADAPTERS)
ADAPTERS_BY_ENDPOINT: Mapping[Endpoint, Mapping[str, Adapter]] = {
    "chat/completions": ADAPTERS,
    "completions": dict.fromkeys(COMPLETION_PROFILES, text),
    "embeddings": {**dict.fromkeys(embeddings.PROVIDERS, embeddings), "cohere": cohere_embed},
}
"""Who speaks which provider's dialect at which endpoint."""
UNSUPPORTED_BY_MODE: Mapping[str, frozenset[str]] = {
    MODES[endpoint]: frozenset(ADAPTERS) - frozenset(dialects)
    for endpoint, dialects in ADAPTERS_BY_ENDPOINT.items()
}
"""By mode: providers that have nothing of the kind."""
MULTI_STEP: Mapping[str, Callable[[HttpRequest, InferenceRequest, Deployment], Steps]] = {
    "replicate": replicate.steps,
}
"""Whose answers take several requests, beginning with the one that `to_request` makes."""
IMPLEMENTED = frozenset(ADAPTERS)
