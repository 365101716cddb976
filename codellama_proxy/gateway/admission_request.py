"""Builds the admission request: the limited scopes, the maximum cost and the candidates of a request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from codellama_proxy.core.snapshot import Deployment, Model, Price, Snapshot, Tariff
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequest
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing import extras, output_bounds
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.pricing.extras import Extra
from codellama_proxy.pricing.plausible_usage import OWN_TOKENS, Bounds
from codellama_proxy.providers.common.output_limits import narrowed_max_tokens
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tokens import media
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.media import Media


def candidates(models: Iterable[Model]) -> list[Deployment]:
    """Every deployment of these models."""
    return [d for model in models for d in model.deployments]


def scopes_of(
    context: RequestContext, request: InferenceRequest, snapshot: Snapshot
) -> tuple[ScopeLimits, ...]:
    """The limited scopes of a request."""
    return limits.scopes_of(snapshot, context.settings, context.key, request.user)


def counts_tokens(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether prompt tokens are counted before admission rather than estimated from the size."""
    return bool([of for _, of in scopes if of.tpm_limit is not None])


def budgeted(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether a budget can refuse the request."""
    return bool([of for _, of in scopes if of.max_budget is not None and not of.shadow])


def payable(models: Sequence[Model]) -> Sequence[Model]:
    """The chain of a request with a budget: without deployments of unknown price, unless none would be left."""
    if None not in [price_of(d) for model in models for d in model.deployments]:
        return models
    able = [replace(model, deployments=_priced(model.deployments)) for model in models]
    return [model for model in able if model.deployments] or models


def _priced(deployments: Iterable[Deployment]) -> tuple[Deployment, ...]:
    return tuple(d for d in deployments if price_of(d) is not None)


def admission_request(
    context: RequestContext,
    request: InferenceRequest,
    models: Sequence[Model],
    snapshot: Snapshot,
    scopes: tuple[ScopeLimits, ...],
    prompt_estimate: int,
) -> AdmissionRequest:
    """What the ledger needs to admit the request. `prompt_estimate`: the expected number of prompt tokens."""
    deployments = _in_order(context.planned, models)
    requests = context.requests_for(request, snapshot.guardrail)
    attached, shared = _shared_bound(request)
    bounds: list[int] = []
    prices: list[Tariff | None] = []
    unbounded: list[int] = []
    answers = calls_units = 0
    for deployment in deployments:
        at = requests.at(deployment)
        bound = shared + _own_bound(at, attached, budgeted=context.budgeted)
        bounds.append(min(bound, deployment.context_window or bound))
        answers = max(answers, at.answers)
        paid = at.paid_extras
        if paid:
            calls_units = max(calls_units, _calls_units(deployment, paid))
        if not context.cached:
            prices.append(_rates(at, paid, bounds[-1]))
            unbounded.append(output_bounds.unbounded_tokens(request, deployment))
    embeds = request.endpoint == "embeddings"
    return AdmissionRequest(
        request_id=context.id,
        created_at=context.created_at,
        project=context.settings.name,
        key=context.key,
        user=request.user,
        endpoint=context.endpoint,
        model_requested=request.model,
        stream=request.stream,
        config=snapshot.digest,
        scopes=scopes,
        prompt_estimate=prompt_estimate,
        prompt_bound=max(bounds),
        max_tokens=_max_tokens(request, deployments),
        default_max_tokens=0 if embeds else max([d.max_output_tokens for d in deployments]),
        n=answers,
        prices=tuple(prices),
        bounds=tuple(bounds),
        unbounded_tokens=tuple(unbounded),
        calls_units=calls_units,
        candidate_names=tuple([d.name for d in deployments]),
        deployment=None if context.cached else deployments[0],
        session=context.session,
        agent=context.agent,
        counts=context.counts,
    )


def _max_tokens(request: InferenceRequest, deployments: Sequence[Deployment]) -> int | None:
    """The client's bound on the answer; where it is only a ceiling, what the most generous candidate makes of it."""
    wanted = request.max_tokens
    if wanted is None or request.max_tokens_field not in request.soft:
        return wanted
    narrowed = [narrowed_max_tokens(request, deployment) for deployment in deployments]
    return max([wanted if most is None else most for most in narrowed])


def _in_order(planned: Sequence[Deployment], models: Sequence[Model]) -> Sequence[Deployment]:
    """Every deployment of these models: first the one that is tried first."""
    possible = candidates(models)
    if len(possible) == 1:
        return possible
    first = next((d for d in planned if d in possible), possible[0])
    return [first, *[d for d in possible if d is not first]]


def bounds_of(ask: AdmissionRequest, admission: Admission, *, budgeted: bool) -> Bounds:
    """The maximum usage of the request, against which usage reported by the upstream is checked."""
    sent = ask.max_tokens if admission.max_tokens is None else admission.max_tokens
    each = ask.wanted_tokens if sent is None else sent
    completion = each * ask.n + max(ask.unbounded_tokens, default=0)
    return Bounds(ask.prompt_bound, completion, sent is not None, ask.n, budgeted)


def _shared_bound(request: InferenceRequest) -> tuple[Sequence[Media], int]:
    """The media in the prompt, and an upper bound of its other tokens that are the same at each deployment.

    Those are the bytes of the prompt, message framing, and tokens that providers add.
    """
    attached, encoded = media.media_in(request.messages)
    shared = request.size - encoded + tokens.framing_bound(request.messages)
    return attached, shared + OWN_TOKENS if request.endpoint == "chat/completions" else shared


def _own_bound(at: DeploymentRequest, attached: Sequence[Media], *, budgeted: bool) -> int:
    """An upper bound of the prompt tokens that this deployment adds: guardrail, parameters, media, searches."""
    deployment = at.deployment
    own = len(at.guardrail_text.encode())
    if deployment.params:
        own += len(repr(dict(deployment.params)))
    if attached:
        own += media.bound(attached, deployment)
    # Extras without a price are removed only if there is a budget.
    found = at.paid_extras if budgeted else at.extras
    calls = sum([extra.calls for extra in found]) if found else 0
    if not calls and output_bounds.always_searches(at.request, deployment):
        calls = extras.MAX_UNBOUNDED_CALLS
    return own + extras.CALL_TOKENS * calls


def _rates(here: DeploymentRequest, paid: Sequence[Extra], bound: int) -> Tariff | None:
    """The highest prices of a prompt token and of a completion token there; `None` if the price is unknown."""
    price = price_of(here.deployment)
    if price is None:
        return None
    if not (paid or price.above or price.service_tiers):
        return _plain_rates(price)
    rates = pricing.reachable(price, bound, extras.requested_tier(here.priced_fields))
    hour = any(extra.hour for extra in paid)
    classes = (rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h if hour else 0)
    return Tariff(max([rate or 0 for rate in classes]), rates.output)


@lru_cache(maxsize=4096)
def _plain_rates(price: Price) -> Tariff:
    """The same for a price without tiers and a request without extras: it only depends on the price."""
    rates = pricing.reachable(price, 0)
    return Tariff(max(rates.input, rates.cached_input or 0, rates.cache_write or 0), rates.output)


def _calls_units(deployment: Deployment, paid: Sequence[Extra]) -> int:
    """Maximum cost of its server tool calls there, in nano-USD per million such requests."""
    prices = dict(deployment.price.server_tools) if deployment.price else {}
    return sum([extra.calls * prices.get(extra.tool, 0) for extra in paid])
