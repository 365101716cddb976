"""Builds the admission request: the limited scopes, the maximum cost and the candidates of a request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from codellama_proxy.core.snapshot import Deployment, Snapshot, Tariff
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequest
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


def scopes_of(
    context: RequestContext, request: InferenceRequest, snapshot: Snapshot
) -> tuple[ScopeLimits, ...]:
    """The limited scopes of a request."""
    of_project = context.rules_under(snapshot).scopes
    return limits.with_caller(of_project, snapshot, context.settings.name, context.key, request.user)


def counts_tokens(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether prompt tokens are counted before admission rather than estimated from the size."""
    return bool([of for _, of in scopes if of.tpm_limit is not None])


def budgeted(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether a budget can refuse the request."""
    return bool([of for _, of in scopes if of.max_budget is not None and not of.shadow])


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
    requests = context.requests_for(request, snapshot)
    attached, shared = _shared_bound(request)
    bounds: list[int] = []
    prices: list[Tariff | None] = []
    unbounded: list[int] = []
    answers = calls_units = 0
    for deployment in deployments:
        at = requests.at(deployment)
        paid = at.paid_extras
        # Extras without a price are removed only if there is a budget.
        bound = shared + _own_bound(at, attached, paid if context.budgeted else at.extras)
        bounds.append(min(bound, deployment.context_window or bound))
        answers = max(answers, at.answers)
        if paid:
            calls_units = max(calls_units, _calls_units(deployment, paid))
        if not context.cached:
            prices.append(_rates(at, paid, bounds[-1]))
            unbounded.append(output_bounds.unbounded_tokens(request, deployment))
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
        default_max_tokens=0 if request.endpoint == "embeddings" else chain.max_output_tokens,
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
    if wanted is None or not request.soft or request.max_tokens_field not in request.soft:
        return wanted
    narrowed = [narrowed_max_tokens(request, deployment) for deployment in deployments]
    return max([wanted if most is None else most for most in narrowed])


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
    completion = each * ask.n + max(ask.unbounded_tokens, default=0)
    return Bounds(ask.prompt_bound, completion, sent is not None, ask.n, budgeted)


def _shared_bound(request: InferenceRequest) -> tuple[Sequence[Media], int]:
    """The media in the prompt, and an upper bound of its other tokens that are the same at each deployment.

    Those are the bytes of the prompt, message framing, and tokens that providers add.
    """
    attached, encoded = media.media_in(request.messages)
    shared = request.size - encoded + tokens.framing_bound(request.messages)
    return attached, shared + OWN_TOKENS if request.endpoint == "chat/completions" else shared


def _own_bound(at: DeploymentRequest, attached: Sequence[Media], used: Sequence[Extra]) -> int:
    """An upper bound of the prompt tokens that this deployment adds: guardrail, parameters, media, searches.

    `used`: the extras that may be sent.
    """
    own = at.candidate.max_own_tokens
    if attached:
        own += media.bound(attached, at.deployment)
    calls = sum([extra.calls for extra in used]) if used else 0
    if not calls and output_bounds.always_searches(at.request, at.deployment):
        calls = extras.MAX_UNBOUNDED_CALLS
    return own + extras.CALL_TOKENS * calls


def _rates(here: DeploymentRequest, paid: Sequence[Extra], bound: int) -> Tariff | None:
    """The highest prices of a prompt token and of a completion token there; `None` if the price is unknown."""
    price, plain = here.candidate.price, here.candidate.plain_rates
    if price is None or (plain is not None and not paid):
        return plain
    rates = pricing.reachable(price, bound, extras.requested_tier(here.priced_fields))
    hour = any(extra.hour for extra in paid)
    classes = (rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h if hour else 0)
    return Tariff(max([rate or 0 for rate in classes]), rates.output)


def _calls_units(deployment: Deployment, paid: Sequence[Extra]) -> int:
    """Maximum cost of its server tool calls there, in nano-USD per million such requests."""
    prices = dict(deployment.price.server_tools) if deployment.price else {}
    return sum([extra.calls * prices.get(extra.tool, 0) for extra in paid])
