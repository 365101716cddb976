"""The `x-proxy-*` and rate-limit response headers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.limits import rates
from codellama_proxy.providers.common.output_limits import narrowed_max_tokens
from codellama_proxy.request.context import RequestContext

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def response_headers(context: RequestContext, now: float, wall: Callable[[], float]) -> dict[str, str]:
    """The headers of every response, errors included; `now` is monotonic seconds, `wall` returns Unix seconds."""
    fields = {
        "x-request-id": context.id,
        "x-proxy-config": context.config,
        "x-proxy-cache": context.cache,
        "x-proxy-attempts": str(len(context.attempts)),
        "x-proxy-overhead-ms": f"{(now - context.started - context.waited) * 1000:.2f}",
    }
    if context.serving is not None:
        fields["x-proxy-model"] = _header_text(context.serving.name)
        fields["x-proxy-deployment"] = _header_text(context.serving.id)
    if context.similarity is not None:
        fields["x-proxy-similarity"] = f"{context.similarity:.4f}"
    if context.dropped:
        fields["x-proxy-dropped-params"] = ",".join(map(_header_text, context.dropped))
    if context.admission is not None:
        fields.update(rates.headers(context.admission.requests, context.admission.tokens))
        if context.admission.clamped:
            fields["x-proxy-max-tokens"] = str(context.admission.max_tokens)
    if (most := _reduced_max_tokens(context)) is not None:
        fields["x-proxy-max-tokens"] = str(most)
    dialect = DIALECTS[context.endpoint]
    if dialect.headers is not None:
        requests, tokens = context.rates
        fields.update(dialect.headers(context.id, requests, tokens, wall()))
    return fields


def _reduced_max_tokens(context: RequestContext) -> int | None:
    """The bound that was sent to the serving deployment, if it is below the client's and that is only a ceiling."""
    asked, sent, to = context.request, context.sent, context.serving
    if asked is None or sent is None or to is None or asked.max_tokens_field not in asked.soft:
        return None
    bound = narrowed_max_tokens(sent, to) or sent.max_tokens
    return bound if bound is not None and bound < (asked.max_tokens or 0) else None


@lru_cache(maxsize=4096)
def _header_text(name: str) -> str:
    """The name with unsafe characters replaced by `?`: header values are Latin-1 without line breaks."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(char if " " <= char <= "~" else "?" for char in name)
