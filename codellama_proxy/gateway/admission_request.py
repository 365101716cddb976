"""What a request asks of the ledger: its scopes, the most it can cost, and who could answer it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from codellama_proxy.core.snapshot import Deployment, Model, Snapshot, Tariff
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.openai_format.request import InferenceRequest, answers_of
from codellama_proxy.openai_format.usage import OWN_TOKENS, Bounds
from codellama_proxy.policy.guardrail import guardrail_text, with_entry_params
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing import extras, output_bounds
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tokens import media
from codellama_proxy.tokens import tokenizers as tokens


def candidates(models: Iterable[Model]) -> list[Deployment]:
    """Everybody who may be asked."""
    return [d for model in models for d in model.deployments]


def scopes_of(trace: RequestContext, chat: InferenceRequest, snapshot: Snapshot) -> tuple[ScopeLimits, ...]:
    """The limited scopes of a request."""
    return limits.scopes_of(snapshot, trace.settings, trace.key, chat.user)


def counts_tokens(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether the prompt's tokens are counted beforehand, or guessed from its size."""
    return any(scope.limits.tpm_limit is not None for scope in scopes)


def budgeted(scopes: Iterable[ScopeLimits]) -> bool:
    """Whether a budget can refuse the request."""
    return any(scope.limits.max_budget is not None and not scope.limits.shadow for scope in scopes)


def payable(models: Sequence[Model], scopes: Iterable[ScopeLimits]) -> Sequence[Model]:
    """The chain without those that a budget passes over: what they cost is unknown. All of it if nothing is left."""
    if not budgeted(scopes) or all(price_of(d) is not None for d in candidates(models)):
        return models
    able = [replace(model, deployments=_priced(model.deployments)) for model in models]
    return [model for model in able if model.deployments] or models


def _priced(deployments: Iterable[Deployment]) -> tuple[Deployment, ...]:
    return tuple(d for d in deployments if price_of(d) is not None)


def admission_request(
    trace: RequestContext,
    chat: InferenceRequest,
    models: Sequence[Model],
    snapshot: Snapshot,
    scopes: tuple[ScopeLimits, ...],
    prompt_estimate: int,
) -> AdmissionRequest:
    """`prompt_estimate`: tokens, as near as we know."""
    possible = candidates(models)
    first = next((d for d in trace.planned if d in possible), possible[0])
    deployments = [first, *[d for d in possible if d is not first]]
    bounds = _prompt_bounds(chat, deployments, snapshot, trace)
    prices: tuple[Tariff | None, ...] = ()
    unbounded = tuple([output_bounds.unbounded_tokens(chat, d) for d in deployments])
    if not trace.cached:
        prices = tuple([_rates(chat, d, bound) for d, bound in zip(deployments, bounds, strict=True)])
    return AdmissionRequest(
        request_id=trace.id,
        created_at=trace.created_at,
        project=trace.project,
        key=trace.key,
        user=chat.user,
        endpoint=trace.endpoint,
        model_requested=chat.model,
        stream=chat.stream,
        config=snapshot.digest,
        scopes=scopes,
        prompt_estimate=prompt_estimate,
        prompt_bound=max(bounds),
        max_tokens=chat.max_tokens,
        default_max_tokens=_most_tokens(chat, deployments),
        n=max([answers_of(chat.endpoint, with_entry_params(chat.params, d)) for d in deployments]),
        prices=prices,
        bounds=bounds,
        unbounded_tokens=() if trace.cached else unbounded,
        calls_units=max([_calls_units(chat, d) for d in deployments]),
        candidate_names=tuple([d.name for d in deployments]),
        deployment=None if trace.cached else first,
        counts=trace.counts,
    )


def bounds_of(ask: AdmissionRequest, admission: Admission) -> Bounds:
    """What the request can use at most, for judging what its upstream will report."""
    told = ask.max_tokens if admission.max_tokens is None else admission.max_tokens
    each = ask.wanted_tokens if told is None else told
    completion = each * ask.n + max(ask.unbounded_tokens, default=0)
    return Bounds(ask.prompt_bound, completion, told is not None, ask.n, budgeted(ask.scopes))


def _most_tokens(chat: InferenceRequest, deployments: Sequence[Deployment]) -> int:
    """Of an answer that the client did not bound; vectors have none."""
    return 0 if chat.endpoint == "embeddings" else max([d.max_output_tokens for d in deployments])


def _prompt_bounds(
    chat: InferenceRequest, deployments: Sequence[Deployment], snapshot: Snapshot, trace: RequestContext
) -> tuple[int, ...]:
    """Tokens that the prompt cannot exceed at each deployment.

    Its bytes with the guardrail's, pictures and the like by the provider's formula, what frames take and what providers
    add by themselves.
    """
    brought, encoded = media.found_in(chat.messages)
    shared = chat.size - encoded + tokens.framing_bound(chat.messages)
    if chat.endpoint == "chat/completions":
        shared += OWN_TOKENS

    def bound(deployment: Deployment) -> int:
        own = len(guardrail_text(snapshot.guardrail, trace.settings, deployment).encode())
        own += len(repr(dict(deployment.params))) if deployment.params else 0
        found = shared + own + media.bound(brought, deployment)
        # Only a budget keeps back what has no price.
        sent = _extras(chat, deployment) if trace.budgeted else _all_extras(chat, deployment)
        calls = sum(one.calls for one in sent)
        if not calls and output_bounds.always_searches(chat, deployment):
            calls = extras.MAX_UNBOUNDED_CALLS
        found += extras.CALL_TOKENS * calls
        return min(found, deployment.context_window or found)

    return tuple([bound(deployment) for deployment in deployments])


def _extras(chat: InferenceRequest, deployment: Deployment) -> list[extras.Extra]:
    """What costs extra there and is paid for."""
    price = price_of(deployment)
    return [one for one in _all_extras(chat, deployment) if one.paid_by(deployment.price, price)]


def _all_extras(chat: InferenceRequest, deployment: Deployment) -> list[extras.Extra]:
    return extras.extras_of(chat._replace(params=with_entry_params(chat.params, deployment)))


def _rates(chat: InferenceRequest, deployment: Deployment, bound: int) -> Tariff | None:
    """The dearest price that a token of the prompt, and one of the answer, can have there."""
    price = price_of(deployment)
    if price is None:
        return None
    wished = with_entry_params(chat.params, deployment)
    found = pricing.reachable(price, bound, extras.asked_tier(wished))
    hour = any(one.hour for one in _extras(chat, deployment))
    classes = (found.input, found.cached_input, found.cache_write, found.cache_write_1h if hour else 0)
    return Tariff(max(one or 0 for one in classes), found.output)


def _calls_units(chat: InferenceRequest, deployment: Deployment) -> int:
    """What its calls of server tools can cost there, in nano-USD for a million requests like it."""
    prices = dict(deployment.price.server_tools) if deployment.price else {}
    return sum(one.calls * prices.get(one.tool, 0) for one in _extras(chat, deployment))
