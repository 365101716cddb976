"""Builds the admission request: the limited scopes, the maximum cost and the candidates of a request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from codellama_proxy.core.snapshot import Deployment, Model, Snapshot, Tariff
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequest
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing import extras, output_bounds
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.pricing.plausible_usage import OWN_TOKENS, Bounds
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tokens import media
from codellama_proxy.tokens import tokenizers as tokens


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
    return any(scope.limits.tpm_limit is not None for scope in scopes)


def budgeted(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether a budget can refuse the request."""
    return any(scope.limits.max_budget is not None and not scope.limits.shadow for scope in scopes)


def payable(models: Sequence[Model], scopes: Iterable[ScopeLimits]) -> Sequence[Model]:
    """With a budget, the chain without deployments of unknown price; the whole chain if none would be left."""
    if not budgeted(scopes) or all(price_of(d) is not None for d in candidates(models)):
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
    possible = candidates(models)
    first = next((d for d in context.planned if d in possible), possible[0])
    deployments = [first, *[d for d in possible if d is not first]]
    requests = context.requests_for(request, snapshot.guardrail)
    here = [requests.at(deployment) for deployment in deployments]
    bounds = _prompt_bounds(here, budgeted=context.budgeted)
    prices: tuple[Tariff | None, ...] = ()
    unbounded = tuple([output_bounds.unbounded_tokens(request, d) for d in deployments])
    if not context.cached:
        prices = tuple([_rates(at, bound) for at, bound in zip(here, bounds, strict=True)])
    return AdmissionRequest(
        request_id=context.id,
        created_at=context.created_at,
        project=context.project,
        key=context.key,
        user=request.user,
        endpoint=context.endpoint,
        model_requested=request.model,
        stream=request.stream,
        config=snapshot.digest,
        scopes=scopes,
        prompt_estimate=prompt_estimate,
        prompt_bound=max(bounds),
        max_tokens=request.max_tokens,
        default_max_tokens=_most_tokens(request, deployments),
        n=max([at.answers for at in here]),
        prices=prices,
        bounds=bounds,
        unbounded_tokens=() if context.cached else unbounded,
        calls_units=max([_calls_units(at) for at in here]),
        candidate_names=tuple([d.name for d in deployments]),
        deployment=None if context.cached else first,
        session=context.session,
        agent=context.agent,
        counts=context.counts,
    )


def bounds_of(ask: AdmissionRequest, admission: Admission) -> Bounds:
    """The maximum usage of the request, against which usage reported by the upstream is checked."""
    sent = ask.max_tokens if admission.max_tokens is None else admission.max_tokens
    each = ask.wanted_tokens if sent is None else sent
    completion = each * ask.n + max(ask.unbounded_tokens, default=0)
    return Bounds(ask.prompt_bound, completion, sent is not None, ask.n, budgeted(ask.scopes))


def _most_tokens(request: InferenceRequest, deployments: Sequence[Deployment]) -> int:
    """Maximum completion tokens if the client set no bound; 0 for embeddings."""
    return 0 if request.endpoint == "embeddings" else max([d.max_output_tokens for d in deployments])


def _prompt_bounds(here: Sequence[DeploymentRequest], *, budgeted: bool) -> tuple[int, ...]:
    """Upper bounds of the prompt tokens at each deployment.

    Counts the bytes of the prompt and of the guardrail, media by the provider's formula, message framing, and tokens
    that providers add.
    """
    request = here[0].request
    attached, encoded = media.media_in(request.messages)
    shared = request.size - encoded + tokens.framing_bound(request.messages)
    if request.endpoint == "chat/completions":
        shared += OWN_TOKENS

    def bound(at: DeploymentRequest) -> int:
        deployment = at.deployment
        own = len(at.guardrail_text.encode())
        own += len(repr(dict(deployment.params))) if deployment.params else 0
        total = shared + own + (media.bound(attached, deployment) if attached else 0)
        # Extras without a price are removed only if there is a budget.
        calls = sum([extra.calls for extra in (at.paid_extras if budgeted else at.extras)])
        if not calls and output_bounds.always_searches(request, deployment):
            calls = extras.MAX_UNBOUNDED_CALLS
        total += extras.CALL_TOKENS * calls
        return min(total, deployment.context_window or total)

    return tuple([bound(at) for at in here])


def _rates(here: DeploymentRequest, bound: int) -> Tariff | None:
    """The highest prices of a prompt token and of a completion token there; `None` if the price is unknown."""
    price = price_of(here.deployment)
    if price is None:
        return None
    rates = pricing.reachable(price, bound, extras.requested_tier(here.priced_fields))
    hour = any(extra.hour for extra in here.paid_extras)
    classes = (rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h if hour else 0)
    return Tariff(max([rate or 0 for rate in classes]), rates.output)


def _calls_units(here: DeploymentRequest) -> int:
    """Maximum cost of its server tool calls there, in nano-USD per million such requests."""
    price = here.deployment.price
    prices = dict(price.server_tools) if price else {}
    return sum([extra.calls * prices.get(extra.tool, 0) for extra in here.paid_extras])
