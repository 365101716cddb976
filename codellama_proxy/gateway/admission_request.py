"""Builds the admission request: the limited scopes, the maximum cost and the candidates of a request. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from codellama_proxy.core.snapshot import Deployment, Snapshot, Tariff
from codellama_proxy.limits.admission import Admission, AdmissionRequest
from codellama_proxy.limits.caller_scopes import CallerScopes
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequest, DeploymentRequests
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing import extras, output_bounds
from codellama_proxy.pricing.extras import Extra
from codellama_proxy.pricing.plausible_usage import OWN_TOKENS, Bounds
from codellama_proxy.providers.common.output_limits import narrowed_max_tokens
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain
from codellama_proxy.tokens import media
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.media import Media

NO_SCOPES = CallerScopes()
_NO_MEDIA: Sequence[Media] = ()
_NO_EXTRAS: Sequence[Extra] = ()


def scopes_of(context: RequestContext, request: InferenceRequest, snapshot: Snapshot) -> CallerScopes:
    """The limited scopes of a request."""
    scopes = context.rules_under(snapshot).scopes
    return NO_SCOPES if scopes is None else scopes.of(context.key, request.user)


def admission_request(
    context: RequestContext,
    request: InferenceRequest,
    chain: Chain,
    snapshot: Snapshot,
    scopes: tuple[ScopeLimits, ...],
    prompt_estimate: int,
) -> AdmissionRequest:
    """What the ledger needs to admit the request. `prompt_estimate`: the expected number of prompt tokens."""
    deployments = _in_order(context.planned, chain)
    if context.cached:
        max_tokens, found = None, _FREE
    else:
        requests = context.requests_for(request, snapshot)
        max_tokens = _max_tokens(request, deployments)
        found = _bounds(context, request, requests, deployments)
    bounds, prices, unbounded, answers, calls_units = found
    return AdmissionRequest(
        context.id,
        context.created_at,
        context.settings.name,
        context.key,
        request.user,
        context.endpoint,
        request.model,
        request.stream,
        snapshot.digest,
        scopes,
        prompt_estimate,
        max(bounds) if bounds else 0,
        max_tokens,
        0 if request.endpoint == "embeddings" else chain.max_output_tokens,
        answers,
        prices,
        None if context.cached else deployments[0],
        bounds,
        unbounded,
        calls_units,
        context.session,
        context.agent,
        context.counts,
    )


_Bounds = tuple[tuple[int, ...], tuple[Tariff | None, ...], tuple[int, ...], int, int]
"""Prompt bounds, prices and output tokens that `max_tokens` does not bound, each of the candidates in their order; the
largest number of answers; units of the most expensive calls of server tools.
"""
_FREE: _Bounds = ((), (), (), 1, 0)
"""Of a cached answer, which costs nothing."""


def _bounds(
    context: RequestContext,
    request: InferenceRequest,
    requests: DeploymentRequests,
    deployments: Sequence[Deployment],
) -> _Bounds:
    if requests.plain:
        attached, shared = _NO_MEDIA, _text_bound(request, 0)
    else:
        attached, shared = _shared_bound(request)
    bounds: list[int] = []
    prices: list[Tariff | None] = []
    unbounded: list[int] = []
    answers = calls_units = 0
    for deployment in deployments:
        at = requests.at(deployment)
        candidate = at.candidate
        if at.plain:
            paid, count = _NO_EXTRAS, 1
            own, more = candidate.max_plain_own_tokens, candidate.plain_unbounded_tokens
        else:
            paid, count = at.paid_extras, at.answers
            # Extras without a price are removed only if there is a budget.
            own = _own_bound(at, attached, paid if context.budgeted else at.extras)
            more = output_bounds.unbounded_tokens(request, deployment)
        bound, window = shared + own, deployment.context_window
        if window and window < bound:
            bound = window
        bounds.append(bound)
        answers = max(answers, count)
        if paid:
            calls_units = max(calls_units, _calls_units(deployment, paid))
        plain_rates = candidate.plain_rates
        prices.append(plain_rates if plain_rates is not None and not paid else _rates(at, paid, bound))
        unbounded.append(more)
    return tuple(bounds), tuple(prices), tuple(unbounded), answers, calls_units


def _max_tokens(request: InferenceRequest, deployments: Sequence[Deployment]) -> int | None:
    """The client's bound on the answer; where it is only a ceiling, what the most generous candidate makes of it."""
    wanted = request.max_tokens
    if wanted is None or not request.soft or request.max_tokens_field not in request.soft:
        return wanted
    largest = 0
    for deployment in deployments:
        most = narrowed_max_tokens(request, deployment)
        if most is None:  # others are smaller
            return wanted
        largest = max(largest, most)
    return largest


def _in_order(planned: Sequence[Deployment], chain: Chain) -> Sequence[Deployment]:
    """Every deployment of the chain: first the one that is tried first."""
    possible = chain.deployments
    if len(possible) == 1:
        return possible
    first = next((d for d in planned if d in possible), possible[0])
    return [first, *[d for d in possible if d is not first]]


def bounds_of(ask: AdmissionRequest, admission: Admission, *, budgeted: bool) -> Bounds:
    """The maximum usage of the request, against which usage reported by the upstream is checked."""
    sent = ask.max_tokens if admission.max_tokens is None else admission.max_tokens
    each = ask.wanted_tokens if sent is None else sent
    unbounded = ask.unbounded_tokens
    completion = each * ask.n + (max(unbounded) if unbounded else 0)
    return Bounds(ask.prompt_bound, completion, sent is not None, ask.n, budgeted)


def _shared_bound(request: InferenceRequest) -> tuple[Sequence[Media], int]:
    """The media in the prompt, and an upper bound of its other tokens that are the same at each deployment.

    Those are the bytes of the prompt, message framing, and tokens that providers add.
    """
    attached, encoded = media.media_in(request.messages)
    return attached, _text_bound(request, encoded)


def _text_bound(request: InferenceRequest, encoded: int) -> int:
    """`encoded`: bytes of the media in the prompt."""
    shared = request.size - encoded + tokens.framing_bound(request.messages)
    return shared + OWN_TOKENS if request.endpoint == "chat/completions" else shared


def _own_bound(at: DeploymentRequest, attached: Sequence[Media], used: Sequence[Extra]) -> int:
    """An upper bound of the prompt tokens that this deployment adds: guardrail, parameters, media, searches.

    `used`: the extras that may be sent.
    """
    own = at.candidate.max_own_tokens
    if attached:
        own += media.bound(attached, at.deployment)
    calls = sum([extra.calls for extra in used]) if used else 0
    if not calls and output_bounds.searches_unasked(at.request, at.deployment):
        calls = extras.MAX_UNBOUNDED_CALLS
    return own + extras.CALL_TOKENS * calls


def _rates(here: DeploymentRequest, paid: Sequence[Extra], bound: int) -> Tariff | None:
    """The highest prices of a prompt token and of a completion token there; `None` if the price is unknown."""
    price = here.candidate.price
    if price is None:
        return None
    rates = pricing.reachable(price, bound, extras.requested_tier(here.priced_fields))
    hour = any(extra.hour for extra in paid)
    classes = (rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h if hour else 0)
    return Tariff(max([rate or 0 for rate in classes]), rates.output)


def _calls_units(deployment: Deployment, paid: Sequence[Extra]) -> int:
    """Maximum cost of its server tool calls there, in nano-USD per million such requests."""
    prices = dict(deployment.price.server_tools) if deployment.price else {}
    return sum([extra.calls * prices.get(extra.tool, 0) for extra in paid])
