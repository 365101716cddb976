"""Damaged requests of Claude Code: parsed or refused with 400, never a crash; what is only unknown is never refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.registry import ADAPTERS
from tests.inbound.messages.claude_code import HEADERS, SEALS, SEARCH, TURN
from tests.support.builders import deployment
from tests.support.mutations import ODD, changed, paths

MUTATIONS = 12_000
SENT_EACH = 20
"""Every so many mutations are also sent to a provider."""
WORDS = (
    *(
        "text",
        "image",
        "document",
        "search_result",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
    ),
    *(
        "tool_reference",
        "compaction",
        "tool_removal",
        "system",
        "user",
        "assistant",
        "base64",
        "url",
        "content",
    ),
    *("enabled", "adaptive", "any", "tool", "bash_20250124", "web_search_20250305", "json_schema"),
)
BODIES: list[tuple[Any, list[tuple[Any, ...]]]] = [(body, paths(body)[1:]) for body in (TURN, TURN, SEARCH)]
PROVIDERS: list[Deployment] = [
    deployment(provider=name, mock=None, base_url="https://a.example/v1") for name in sorted(ADAPTERS)
]


def parsed(body: Any) -> InferenceRequest | None:
    """The request; `None` if it is refused with 400."""
    try:
        return MESSAGES.parse(json.dumps(body).encode(), lambda: HEADERS, "req_1", 1, SEALS)
    except ProxyError as error:
        refusal = error
    assert refusal.status == 400
    orjson.loads(MESSAGES.error_body(refusal, "req_1"))
    return None


def mutated(chance: random.Random) -> Any:
    """A request with one to three changes."""
    body, places = chance.choice(BODIES)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice(places)
        value = chance.choice((..., chance.choice(WORDS), *chance.choices(ODD, k=3)))
        body = changed(body, path, lambda _, value=value: value)
        places = [place for place in places if place[: len(path)] != path and place[:1] != path[:1]]
    return body


def test_damaged_requests_are_parsed_or_refused() -> None:
    chance = random.Random(16)
    good = refused = 0
    for at in range(MUTATIONS):
        body = mutated(chance)
        request = parsed(body)
        if request is None:
            refused += 1
            continue
        good += 1
        assert all(message.get("role") for message in request.messages)
        assert all(name.isascii() and name.isprintable() for name in request.ignored)
        MESSAGES.encoder(request, None)
        if at % SENT_EACH == 0:
            _send(request, chance.choice(PROVIDERS))
    assert min(good, refused) > MUTATIONS // 10


def _send(request: InferenceRequest, to: Deployment) -> None:
    try:
        sent = ADAPTERS[to.provider].to_request(request, to)
    except ProxyError as error:
        refusal = error
    else:
        orjson.loads(sent.body)
        return
    assert refusal.status == 400


def additions(body: Any) -> Iterator[Any]:
    """The request with an unknown field in each object, and an unknown block or tool in each list of such."""
    for path in paths(body):
        value: Any = body
        for step in path:
            value = value[step]
        if isinstance(value, dict) and not {"input_schema", "input"} & set(path):
            yield changed(body, path, lambda found: {**found, "a_new_field": {"type": "new"}})
        elif isinstance(value, list) and value and isinstance(value[0], dict) and path != ("messages",):
            new = {"type": "new_20270101", "name": "new", "a": [1]}
            yield changed(body, path, lambda found, new=new: [*found, new])
            yield changed(body, path, lambda found, new=new: [new, *found])


@pytest.mark.parametrize("provider", ["openai", "anthropic", "openai_compatible", "vllm", "groq", "mock"])
def test_what_is_unknown_is_never_refused(provider: str) -> None:
    to = deployment(provider=provider)
    cases = list(additions(TURN))
    assert len(cases) > 60
    for body in cases:
        request = parsed(body)
        assert request is not None, body
        sent = ADAPTERS[provider].to_request(request, to)
        assert b"a_new_field" not in sent.body
        assert b"new_20270101" not in sent.body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"messages": ' + b"[" * 300 + b"]" * 300 + b"}"]
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        MESSAGES.parse(body, dict, "req_1", 1)
    assert caught.value.status == 400
