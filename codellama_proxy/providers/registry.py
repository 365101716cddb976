"""Maps providers to the modules that implement their dialects. A new provider is one file, or one row of a table.

Only the modules of the providers that a configuration names are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest, Steps
from codellama_proxy.openai_format.request import MODES, DialectName, Endpoint, InferenceRequest
from codellama_proxy.providers.openai import embeddings
from codellama_proxy.providers.openai.capabilities import has_only_responses
from codellama_proxy.providers.openai.completions_profiles import COMPLETION_PROFILES
from codellama_proxy.providers.openai.endpoint_urls import is_dated
from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES, OpenAIProfile


class Adapter(Protocol):
    """A dialect: three pure functions. The parsers raise `AttemptError` for invalid answers."""

    def to_request(self, chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
        """The HTTP request. Raises `ProxyError` unsupported_parameter."""

    def parse_response(self, body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
        """A plain answer as one event."""

    def parse_stream(
        self, state: Any, frame: Frame, chat: InferenceRequest, deployment: Deployment
    ) -> tuple[Any, Sequence[Event]]:
        """One frame's events and the next state; `state` is `None` at first. The state has `done` and `complete`."""


class TokenCount(Protocol):
    """How a provider is asked for the tokens of a prompt in its own dialect. Two pure functions."""

    def to_request(self, chat: InferenceRequest, deployment: Deployment) -> HttpRequest: ...

    def parse_response(self, body: bytes) -> int | None:
        """The tokens; `None` if the body has none."""


class LazyAdapters(Mapping[str, Adapter]):
    """Adapters by provider, each imported at its first use; `load_adapters` imports those a configuration uses."""

    def __init__(self, makers: Mapping[str, Callable[[], Adapter]]) -> None:
        self._makers = makers
        self._made: dict[str, Adapter] = {}

    def __getitem__(self, provider: str) -> Adapter:
        found = self._made.get(provider)
        if found is None:
            found = self._made[provider] = self._makers[provider]()
        return found

    def __contains__(self, provider: object) -> bool:
        return provider in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _ai21() -> Adapter:
    from codellama_proxy.providers import ai21

    return ai21


def _anthropic() -> Adapter:
    from codellama_proxy.providers.anthropic import adapter

    return adapter


def _cohere() -> Adapter:
    from codellama_proxy.providers.cohere import adapter

    return adapter


def _cohere_embeddings() -> Adapter:
    from codellama_proxy.providers.cohere import embeddings as cohere_embeddings

    return cohere_embeddings


def _completions() -> Adapter:
    from codellama_proxy.providers.openai import completions

    return completions


def _messages_relay() -> Adapter:
    from codellama_proxy.providers.anthropic import relay

    return relay


def _responses() -> Adapter:
    from codellama_proxy.providers.openai import responses

    return responses


def _responses_relay() -> Adapter:
    from codellama_proxy.providers.openai import responses_relay

    return responses_relay


def _replicate() -> Adapter:
    from codellama_proxy.providers.replicate import predictions

    return predictions


def _replicate_steps(sent: HttpRequest, chat: InferenceRequest, deployment: Deployment) -> Steps:
    from codellama_proxy.providers.replicate import predictions

    return predictions.steps(sent, chat, deployment)


def adapters(
    dialects: Mapping[str, OpenAIProfile], natives: Mapping[str, Callable[[], Adapter]]
) -> LazyAdapters:
    """Adapters by provider: the profiles of OpenAI's dialect, and the providers with their own module."""

    @cache
    def openai() -> Adapter:
        from codellama_proxy.providers.openai.adapter import OpenAIAdapter

        return OpenAIAdapter(dialects)

    return LazyAdapters({**dict.fromkeys(dialects, openai), **natives})


NATIVE_ADAPTERS: Mapping[str, Callable[[], Adapter]] = {
    "ai21": _ai21,
    "anthropic": _anthropic,
    "cohere": _cohere,
    "replicate": _replicate,
}
ADAPTERS = adapters(OPENAI_PROFILES, NATIVE_ADAPTERS)
ADAPTERS_BY_ENDPOINT: Mapping[Endpoint, Mapping[str, Adapter]] = {
    "chat/completions": ADAPTERS,
    "completions": LazyAdapters(dict.fromkeys(COMPLETION_PROFILES, _completions)),
    "embeddings": LazyAdapters(
        {**dict.fromkeys(embeddings.PROVIDERS, lambda: embeddings), "cohere": _cohere_embeddings}
    ),
}
"""Adapters by endpoint and provider."""
RELAYS: Mapping[DialectName, Mapping[str, Adapter]] = {
    "messages": LazyAdapters({"anthropic": _messages_relay}),
    "responses": LazyAdapters(
        dict.fromkeys(
            [name for name, profile in OPENAI_PROFILES.items() if profile.responses], _responses_relay
        )
    ),
}
"""Adapters that pass requests and answers of a dialect on as they came, by dialect and provider."""
UNSUPPORTED_BY_MODE: Mapping[str, frozenset[str]] = {
    MODES[endpoint]: frozenset(ADAPTERS) - frozenset(dialects)
    for endpoint, dialects in ADAPTERS_BY_ENDPOINT.items()
}
"""Providers that do not support a mode."""
MULTI_STEP: Mapping[str, Callable[[HttpRequest, InferenceRequest, Deployment], Steps]] = {
    "replicate": _replicate_steps,
}
"""Providers whose answers take several requests; the first one is from `to_request`."""
IMPLEMENTED = frozenset(ADAPTERS)
_RESPONSES = LazyAdapters({"responses": _responses})


def relays_of(deployment: Deployment) -> frozenset[str]:
    """The dialects that the deployment speaks itself, so that their requests can be passed on."""
    if is_dated(deployment):
        return frozenset()
    return frozenset(dialect for dialect, providers in RELAYS.items() if deployment.provider in providers)


def adapter_of(request: InferenceRequest, deployment: Deployment) -> Adapter:
    """The adapter for a request as this deployment gets it.

    A relay if it has a native form, which `policy.deployment_request` leaves only where the deployment relays it.
    """
    if request.native is not None and request.dialect in deployment.relays:
        return RELAYS[request.dialect][deployment.provider]
    if (
        "responses" in deployment.relays
        and request.endpoint == "chat/completions"
        and has_only_responses(deployment)
    ):
        return _RESPONSES["responses"]
    return ADAPTERS_BY_ENDPOINT[request.endpoint][deployment.provider]


def token_count_of(request: InferenceRequest, deployment: Deployment) -> TokenCount | None:
    """How the deployment counts the tokens of a request that is relayed to it; `None` if it cannot."""
    if request.native is None or request.dialect != "messages" or "messages" not in deployment.relays:
        return None
    from codellama_proxy.providers.anthropic import token_count

    return token_count


def load_adapters(deployments: Iterable[Deployment]) -> None:
    """Imports the adapters of these deployments, so that no request waits for an import."""
    for deployment in deployments:
        for endpoint, dialects in ADAPTERS_BY_ENDPOINT.items():
            if deployment.serves(MODES[endpoint]):
                dialects.get(deployment.provider)
        for dialect in deployment.relays:
            RELAYS[dialect].get(deployment.provider)  # type: ignore[index]  # a name of `RELAYS`
        if "responses" in deployment.relays and has_only_responses(deployment):
            _RESPONSES.get("responses")
