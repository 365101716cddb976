"""Odd values of every field, at every endpoint, for every provider: a request is refused or sent, and never fails."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson
import pytest

from codellama_proxy.cache.key import directives_of, key_of, last_turn
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Guardrail, Mock, Price, Project
from codellama_proxy.core.types import Usage
from codellama_proxy.gateway.admission_request import admission_request
from codellama_proxy.inbound.openai import PARSERS
from codellama_proxy.openai_format.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    EMBEDDING_PARAMETERS,
)
from codellama_proxy.openai_format.request import Endpoint, InferenceRequest
from codellama_proxy.policy import privileged_fields
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.guardrail import request_for
from codellama_proxy.policy.project_rules import ProjectRules
from codellama_proxy.pricing import extras
from codellama_proxy.pricing.charge import Call, charge
from codellama_proxy.providers.mock import script as mock
from codellama_proxy.providers.registry import ADAPTERS_BY_ENDPOINT
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain
from tests.support.builders import deployment, model, snapshot

PLAIN: dict[Endpoint, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}
NAMES = sorted(
    {*CHAT_PARAMETERS, *COMPLETION_PARAMETERS, *EMBEDDING_PARAMETERS, *extras.TABLE}
    | {"best_of", "cache_control", "top_k", "min_p", "thinking", "reasoning", "tags", "xyz", "max_uses"}
)
ODD: list[Any] = [
    *(True, False, 0, -1, -5, 1.5, 1e308, 2**31, 2**63, 2**64 - 1),
    *("", "x", "\u0000", "auto", "flex", "a" * 300),
    *([], [[]], [None], [1], [""], [{}], ["x"] * 5, {}, {"": 1}, {"type": {}}, {"type": "function"}),
    *({"type": "function", "function": {"name": None}}, {"type": "json_schema", "json_schema": None}),
    *([{"type": "function", "function": {"name": "f", "parameters": []}}], [{"type": "x", "max_uses": []}]),
    *([{"cache_control": {"type": "ephemeral", "ttl": "1h"}}], {"mode": [], "a": {"b": [2**63]}}),
]
PRICE = Price(input=1_000, output=2_000)
MODELS = [
    model(name, deployment(name, provider=name, price=PRICE, drop_params=True))
    for name in ADAPTERS_BY_ENDPOINT["chat/completions"]
]
SNAPSHOT = snapshot(*MODELS)
RULES = ProjectRules(Guardrail("Only code."), Project("p"))


def requests(endpoint: Endpoint, name: str) -> Iterator[tuple[Any, InferenceRequest]]:
    """Those of the odd values that are not refused, and the request with each."""
    for value in ODD:
        body = orjson.dumps({"model": "m", **PLAIN[endpoint], name: value})
        try:
            yield value, PARSERS[endpoint](body, "req_1", 1_700_000_000)
        except ProxyError:
            continue


ADMITTED = 3
"""How many models the steps that are the same for each provider see at a time; they take turns."""


def prepare(chat: InferenceRequest, turn: int) -> None:
    """Everything that is made of a request before and after it goes upstream."""
    directives_of(chat.cache, "")
    if chat.endpoint == "chat/completions":
        last_turn(chat)
    dialects = ADAPTERS_BY_ENDPOINT[chat.endpoint]
    models = [one for one in MODELS if one.name in dialects]
    admitted = [models[(turn * ADMITTED + place) % len(models)] for place in range(ADMITTED)]
    trace = RequestContext("req_1", 0.0, 1_700_000_000.0, chat.endpoint, "digest", budgeted=True)
    trace.request = chat
    key_of("project", "p", DeploymentRequests(chat, RULES), models[0])
    admission_request(trace, chat, Chain(admitted), SNAPSHOT, (), 10).bound  # noqa: B018 - computes it
    for one in models:
        to = one.deployments[0]
        try:
            privileged_fields.refused_from(chat, to)
            here, _ = extras.paid(request_for(chat, to, "Only code.", "keep", 100), to, PRICE)
            sent = dialects[to.provider].to_request(here, to)
        except ProxyError:
            continue
        if one in admitted:
            assert charge(Call(to, here, 0.0, usage=Usage(5, 5), whole=True), PRICE).cost_nanos is not None
        if to.provider == "mock":
            assert mock.script(sent.body, Mock(), chat.endpoint).status == 200


@pytest.mark.parametrize("endpoint", PLAIN)
def test_an_odd_value_is_refused_or_sent(endpoint: Endpoint) -> None:
    turns = count()
    for name in NAMES:
        for value, chat in requests(endpoint, name):
            try:
                prepare(chat, next(turns))
            except Exception as error:
                raise AssertionError(f"{endpoint}: {name} = {value!r:.60}") from error
