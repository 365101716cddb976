"""Relays requests of Anthropic's Messages API: the client's body and headers, and the upstream's answer, as they came.

The guardrail and other edits of the body are made before (`native.messages`). Answers are read on the way for text,
usage, the end and errors. (docs.anthropic.com/en/api/messages)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.native import betas as beta_names
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.anthropic import request, response, stream
from codellama_proxy.providers.anthropic.capabilities import (
    MIN_BUDGET_TOKENS,
    NEW_VERSION,
    OLD_VERSION,
)
from codellama_proxy.providers.anthropic.stream import StreamState
from codellama_proxy.providers.common.output_limits import known_output_limit, narrowed
from codellama_proxy.providers.common.relayed import readable, with_frame

INTERLEAVED = "interleaved-thinking"
"""The beta with which a thinking budget may be above `max_tokens`."""
OWN_HEADERS = re.compile(
    r"anthropic-(version|beta|.*(organization|workspace|profile|account|key|token|auth).*)$"
)
"""Headers that are set here, or say on whose behalf a request is made."""
MAX_HEADER_CHARACTERS = 1000
MAX_HEADERS = 16


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for the native form of `chat`."""
    assert chat.native is not None
    given = chat.native.headers
    betas, dropped = _betas(given.get(beta_names.HEADER, ""), deployment)
    body = {**chat.native.body, "model": deployment.model}
    body |= _bounded(
        body, _max_tokens(chat, deployment), interleaved=any(b.startswith(INTERLEAVED) for b in betas)
    )
    if body.get("thinking") is None:
        body.pop("thinking", None)
    sampled = any(name in body for name in request.SAMPLING)
    version = given.get("anthropic-version", "")
    headers = {
        "content-type": "application/json",
        **_passed(given),
        "anthropic-version": version
        if beta_names.NAME.fullmatch(version)
        else OLD_VERSION
        if sampled
        else NEW_VERSION,
        **{name: value for name, value in deployment.headers.items() if name.lower() != "anthropic-beta"},
        **({"anthropic-beta": ",".join(betas)} if betas else {}),
        **request.credential(deployment),
    }
    url = request.messages_url(deployment)
    return HttpRequest(
        f"{url}?beta=true" if betas else url,
        headers,
        orjson.dumps(body, default=dict),  # an entry's parameters are read-only mappings
        dropped=("anthropic-beta",) if dropped else (),
    )


def _max_tokens(chat: InferenceRequest, deployment: Deployment) -> int:
    """`max_tokens`, which is required: the client's or the ledger's, at most the model's own limit."""
    most = known_output_limit(deployment)
    wanted = narrowed(chat, deployment).max_tokens
    found = deployment.max_output_tokens if wanted is None else wanted
    return found if most is None else min(found, most)


def _bounded(body: Mapping[str, Any], max_tokens: int, *, interleaved: bool) -> dict[str, Any]:
    """`max_tokens`, and `thinking` with a budget below it; `None` where that is too low for thinking.

    A higher budget stays if a beta allows it and the client's own `max_tokens` does, too.
    """
    found: dict[str, Any] = {"max_tokens": max_tokens}
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    as_asked = interleaved and body.get("max_tokens") == max_tokens
    if type(budget) is not int or budget < max_tokens or as_asked:
        return found
    if max_tokens <= MIN_BUDGET_TOKENS:
        return {**found, "thinking": None}
    return {**found, "thinking": {**(thinking or {}), "budget_tokens": max_tokens - 1}}


def _betas(given: str, deployment: Deployment) -> tuple[list[str], bool]:
    """The client's betas, then the entry's, each once; and whether any of the client's was left out."""
    names = beta_names.named(given)
    kept = beta_names.permitted(names)
    own = deployment.params.get("betas", ())
    listed = [own] if isinstance(own, str) else [name for name in own if isinstance(name, str)]
    headers = {name.lower(): value for name, value in deployment.headers.items()}
    listed += [name.strip() for name in headers.get("anthropic-beta", "").split(",") if name.strip()]
    return list(dict.fromkeys([*kept, *listed])), len(kept) < len(names)


def _passed(given: Mapping[str, str]) -> dict[str, str]:
    """The client's other headers of this API, known here or not."""
    passed = {
        name: value
        for name, value in given.items()
        if name.startswith("anthropic-")
        and not OWN_HEADERS.match(name)
        and value.isascii()
        and value.isprintable()
        and len(value) <= MAX_HEADER_CHARACTERS
    }
    return dict(list(passed.items())[:MAX_HEADERS])


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    return response.parse_response(body, chat, deployment)._replace(raw=readable(body))


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, list[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
    state, events = stream.parse_stream(state, frame, chat, deployment)
    return state, list(with_frame(frame, events))
