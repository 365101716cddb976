"""The report of `explain`, as text and as JSON. Contains no secret and no address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.money import dollars, usd
from codellama_proxy.core.snapshot import Price, Snapshot
from codellama_proxy.core.text_table import table
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics.decision import Cached, CandidateState, Explanation, LimitState
from codellama_proxy.diagnostics.simulation import Course
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.routing.selection import model_name
from codellama_proxy.store.location import Location


def as_text(
    snapshot: Snapshot,
    key: Key,
    chat: InferenceRequest,
    explanation: Explanation,
    course: Course | None,
    used: Location | None,
) -> Iterator[str]:
    """The lines, the verdict first."""
    asked = "the first model" if chat.model is None else f"the model {chat.model}"
    alias_of = _alias_of(snapshot, chat)
    if alias_of is not None:
        asked += f", an alias of {alias_of}"
    yield f"key {key.key_id} of project {key.project} asks for {asked} (configuration {snapshot.digest})"
    yield ""
    yield from _verdict(explanation)
    if explanation.chain:
        yield ""
        yield f"Attempted in this order until one answers ({_order(explanation)}):"
        yield _indented(
            table(
                ("deployment", "provider", "upstream model", "state", "price"), _deployment_rows(explanation)
            )
        )
    if chat.ignored:
        yield ""
        yield f"Left out where the request is translated: {', '.join(chat.ignored)}."
    if explanation.others:
        yield ""
        yield "Not attempted:"
        rows = [(one.deployment.id, one.state, one.why or None) for one in explanation.others]
        yield _indented(table(("deployment", "state", "why"), rows))
    yield from _guardrails(explanation.chain)
    if explanation.cache is not None:
        yield ""
        yield f"Cache: {_cache(explanation.cache)}."
    if explanation.limits:
        yield ""
        since = "assuming no usage yet" if used is None else f"usage from {used}"
        yield f"Limits in force ({since}):"
        yield _indented(
            table(("scope", "limit", "value", "from"), [_limit_row(one) for one in explanation.limits])
        )
    if course is not None:
        yield from _time_line(course)


def _alias_of(snapshot: Snapshot, chat: InferenceRequest) -> str | None:
    """The model that the requested name is an alias of, if it is one."""
    model = None if chat.model is None else model_name(snapshot, chat.model)
    return None if model == chat.model else model


def _order(explanation: Explanation) -> str:
    """How the order of a name's deployments comes about."""
    if explanation.conversation is None:
        return "equal weights in random order"
    return f"its conversation stays on one deployment of a name, by {explanation.conversation.source}"


def _verdict(explanation: Explanation) -> Iterator[str]:
    if explanation.error is not None:
        yield f"Refused before any attempt: {_error(explanation.error)}"
        return
    most = (
        "unknown, because a model in the chain has no price"
        if explanation.most_nanos is None
        else dollars(explanation.most_nanos)
    )
    yield f"Admitted. Prompt: about {explanation.prompt_tokens} tokens. Maximum cost: {most}."
    admission = explanation.admission
    if admission is None or (not admission.hold_nanos and admission.max_tokens is None):
        yield "No budget applies, so nothing is held."
        return
    clamped = " (limited by the remaining budget)" if admission.clamped else ""
    bound = (
        ""
        if admission.max_tokens is None
        else f", max_tokens {admission.max_tokens}{clamped} is sent upstream"
    )
    yield f"Held while it is in flight: {dollars(admission.hold_nanos)}{bound}."
    for refusal in admission.shadowed:
        yield f"Would be refused, but the limit is in shadow mode: {refusal.message}"


def _error(error: ProxyError) -> str:
    return f"{error.status} {error.code}: {error.message}"


def _deployment_rows(explanation: Explanation) -> list[tuple[str | None, ...]]:
    return [
        (
            one.deployment.id,
            one.deployment.provider,
            one.deployment.model,
            _state(one),
            _price(one.price),
        )
        for one in explanation.chain
    ]


def _state(one: CandidateState) -> str:
    parts = [f"{one.state} ({one.why})" if one.why else one.state]
    if one.share < 1:
        parts.append(f"{one.share:.0%} of its model's requests")
    if one.dropped:
        parts.append(f"drops {', '.join(one.dropped)}")
    if one.refuses:
        parts.append(f"cannot serve it: {one.refuses}")
    return "; ".join(parts)


def _price(price: Price | None) -> str:
    return (
        "unknown" if price is None else f"{dollars(price.input)} in, {dollars(price.output)} out per million"
    )


def _guardrails(chain: Sequence[CandidateState]) -> Iterator[str]:
    """Each text once, with the deployments that get it."""
    texts: dict[str, list[str]] = {}
    for one in chain:
        texts.setdefault(one.guardrail, []).append(one.deployment.id)
    for text, names in texts.items():
        yield ""
        whom = "" if len(texts) == 1 else f" for {', '.join(names)}"
        yield f"Guardrail{whom}:" if text else f"No guardrail{whom}."
        if text:
            yield _indented(text)


def _cache_json(cached: Cached) -> dict[str, Any]:
    return {"state": cached.state, "scope": cached.scope, "key": cached.key}


def _cache(cached: Cached) -> str:
    if cached.state != "used":
        return cached.state
    return f"an identical request of the same {cached.scope.partition(' ')[0]} shares the answer ({cached.key[:16]})"


def _limit_row(one: LimitState) -> tuple[str, str, str, str]:
    value = (
        dollars(one.value)
        if one.field == "max_budget" and isinstance(one.value, int)
        else str(one.value).lower()
    )
    return one.scope, one.field, value, one.source


def _time_line(course: Course) -> Iterator[str]:
    yield ""
    yield "Simulation (delays are half of their maximum):"
    for event in course.events:
        yield f"  {event.at:9.3f} s  {event.what}"
    yield f"  {course.seconds:9.3f} s  {_end(course)}"


def _end(course: Course) -> str:
    if course.error is not None:
        wait = "" if course.error.retry_after is None else f" (Retry-After {course.error.retry_after:g})"
        return f"the caller gets {_error(course.error)}{wait}"
    return f"the caller gets the answer of {course.served}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


# --- JSON --------------------------------------------------------------------------------------------------


def as_json(
    snapshot: Snapshot, key: Key, chat: InferenceRequest, explanation: Explanation, course: Course | None
) -> dict[str, Any]:
    admission = explanation.admission
    return {
        "config": snapshot.digest,
        "key_id": key.key_id,
        "project": key.project,
        "endpoint": chat.shown_endpoint,
        "model": chat.model,
        "left_out": list(chat.ignored),
        "alias_of": _alias_of(snapshot, chat),
        "conversation": explanation.conversation and explanation.conversation.source,
        "error": _error_json(explanation.error),
        "chain": [_deployment_json(one) for one in explanation.chain],
        "others": [
            {"deployment": one.deployment.id, "state": one.state, "why": one.why or None}
            for one in explanation.others
        ],
        "limits": [_limit_json(one) for one in explanation.limits],
        "prompt_tokens": explanation.prompt_tokens,
        "most_usd": usd(explanation.most_nanos),
        "hold_usd": None if admission is None else usd(admission.hold_nanos),
        "max_tokens": None if admission is None else admission.max_tokens,
        "clamped": admission is not None and admission.clamped,
        "cache": explanation.cache and _cache_json(explanation.cache),
        "simulation": None if course is None else _course_json(course),
    }


def _error_json(error: ProxyError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"status": error.status, "code": error.code, "message": error.message}


def _deployment_json(one: CandidateState) -> dict[str, Any]:
    price = one.price
    return {
        "deployment": one.deployment.id,
        "model": one.deployment.name,
        "provider": one.deployment.provider,
        "upstream_model": one.deployment.model,
        "state": one.state,
        "why": one.why or None,
        "share": one.share,
        "guardrail": one.guardrail or None,
        "price": price and {"input": usd(price.input), "output": usd(price.output)},
        "cannot_be_asked": one.refuses or None,
        "dropped_params": list(one.dropped),
    }


def _limit_json(one: LimitState) -> dict[str, Any]:
    money = one.field == "max_budget" and isinstance(one.value, int)
    value = usd(one.value) if money else one.value  # type: ignore[arg-type]  # money is an integer
    return {"scope": one.scope, "limit": one.field, "value": value, "from": one.source}


def _course_json(course: Course) -> dict[str, Any]:
    return {
        "events": [{"at": event.at, "what": event.what} for event in course.events],
        "attempts": [attempt.to_json() for attempt in course.attempts],
        "served": course.served,
        "error": _error_json(course.error),
        "seconds": course.seconds,
    }
