"""What the ledger is asked to hold: the shorter way for plain requests asks for the same."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Price, Tariff
from codellama_proxy.core.types import Key
from codellama_proxy.gateway.admission_request import admission_request
from codellama_proxy.limits.admission import AdmissionRequest
from codellama_proxy.openai_format.request import InferenceRequest, Native
from codellama_proxy.openai_format.texts import texts_of
from codellama_proxy.pricing.extras import is_plain
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain
from tests.support.builders import chat, deployment, model, snapshot

TIERED = Price(5, 6, above=((100, Tariff(7, 8)),), service_tiers=(("flex", Tariff(1, 2)),))
HOUR = {"type": "ephemeral", "ttl": "1h"}
PICTURE = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
CALL = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]

deployments = st.builds(
    lambda where, **given: deployment(provider=where[0], model=where[1], **given),
    st.sampled_from(
        [
            ("perplexity", "sonar-reasoning"),
            ("xai", "grok-4"),
            ("openai", "gpt-4o-search-preview"),
            ("groq", "x"),
        ]
    ),
    price=st.sampled_from([None, Price(10, 20, 1, 30), TIERED]),
    context_window=st.sampled_from([None, 50, 2000, 10**6]),
    relays=st.sampled_from([frozenset(), frozenset({"messages"})]),
    params=st.sampled_from([{}, {"temperature": 0.5}, {"service_tier": "flex"}, {"n": 2}]),
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from(["hello", None, PICTURE])},
    optional={"tool_calls": st.just(CALL), "cache_control": st.just(HOUR), "name": st.just("bob")},
)
params = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.sampled_from([5, 5000]),
        "temperature": st.just(0.1),
        "service_tier": st.sampled_from(["auto", "flex"]),
        "prediction": st.just({"type": "content", "content": "abc"}),
        "tools": st.just([{"type": "web_search"}]),
        "disable_search": st.just(True),
        "cache_control": st.just(HOUR),
    },
)
natives = st.sampled_from(
    [None, Native({}, {}), Native({"tools": [{"type": "web_search_20250305"}], "service_tier": "flex"}, {})]
)
requests = st.builds(
    lambda found, given, size, native: chat(
        messages=texts_of(found) or found,
        params=given,
        size=size,
        native=native,
        dialect="chat" if native is None else "messages",
    ),
    st.lists(messages, max_size=3),
    params,
    st.integers(0, 300),
    natives,
)


def asked(request: InferenceRequest, chain: Chain, **given: Any) -> AdmissionRequest:
    context = RequestContext("req_1", 0.0, 1.0, request.endpoint, "digest", Key("key_a", "web"), **given)
    return admission_request(context, request, chain, snapshot(*chain.models), (), 10)


@given(
    requests, st.lists(deployments, min_size=1, max_size=3), st.booleans(), st.sampled_from(["miss", "hit"])
)
def test_a_plain_request_is_held_as_any_other(
    request: InferenceRequest, candidates: list[Any], budgeted: bool, cache: str
) -> None:
    chain = Chain([model(f"m{n}", replace(one, id=f"m{n}#0")) for n, one in enumerate(candidates)])
    one_answer = request._replace(params={**request.params, "n": 1})  # what is sent without it, too
    assert not is_plain(one_answer)
    chain = Chain([one for one in chain.models if "n" not in one.deployments[0].params] or chain.models)
    if all("n" not in one.params for one in chain.deployments):
        found = asked(request, chain, budgeted=budgeted, cache=cache)
        assert found == asked(one_answer, chain, budgeted=budgeted, cache=cache)


@given(requests, st.lists(deployments, min_size=1, max_size=3), st.booleans())
def test_a_cached_answer_is_admitted_without_prices_or_a_deployment(
    request: InferenceRequest, candidates: list[Any], budgeted: bool
) -> None:
    chain = Chain([model(f"m{n}", replace(one, id=f"m{n}#0")) for n, one in enumerate(candidates)])
    ask = asked(request, chain, budgeted=budgeted, cache="hit")
    assert (ask.prices, ask.deployment, ask.bound.nanos(10**6)) == ((), None, 0)
    assert ask.prompt_estimate == asked(request, chain, budgeted=budgeted, cache="miss").prompt_estimate


def test_requests_with_text_only_are_plain() -> None:
    """Otherwise the comparison above would compare nothing."""
    assert is_plain(chat(messages=[{"role": "user", "content": "hello"}], params={"max_tokens": 5}))
    for changes in ({"content": PICTURE}, {"tool_calls": CALL}, {"cache_control": HOUR}, {"content": None}):
        assert not is_plain(chat(messages=[{"role": "user", "content": "hello", **changes}]))
    assert not is_plain(chat(params={"tools": [{"type": "web_search"}]}))
