"""The `x-proxy-*` and rate-limit response headers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.limits import rate_headers
from codellama_proxy.providers.common.output_limits import narrowed_max_tokens
from codellama_proxy.request.context import RequestContext

STREAM_LINES = (
    "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)


def response_headers(
    context: RequestContext, now: float, wall: Callable[[], float], before: str = ""
) -> HeaderLines:
    """The headers of every response, errors included; `now` is monotonic seconds, `wall` returns Unix seconds.

    `before`: further lines, each with its end.
    """
    text = (
        f"{before}x-request-id: {context.id}\r\nx-proxy-config: {context.config}\r\nx-proxy-cache: {context.cache}\r\n"
        f"x-proxy-attempts: {len(context.attempts)}\r\n"
        f"x-proxy-overhead-ms: {(now - context.started - context.waited) * 1000:.2f}\r\n"
    )
    if context.serving is not None:
        text += _serving_lines(context.serving.name, context.serving.id)
    if context.similarity is not None:
        text += f"x-proxy-similarity: {context.similarity:.4f}\r\n"
    if context.dropped:
        text += f"x-proxy-dropped-params: {','.join(map(_header_text, context.dropped))}\r\n"
    most = _reduced_max_tokens(context)
    admission = context.admission
    if admission is not None:
        text += rate_headers.header_lines(admission.requests, admission.tokens)
        if most is None:
            most = admission.max_tokens
    if most is not None:
        text += f"x-proxy-max-tokens: {most}\r\n"
    dialect = DIALECTS[context.endpoint]
    if dialect.headers is not None:
        requests, tokens = context.rates
        text += dialect.headers(context.id, requests, tokens, wall())
    return HeaderLines(text)


@lru_cache(maxsize=1024)
def _serving_lines(model: str, deployment: str) -> str:
    return f"x-proxy-model: {_header_text(model)}\r\nx-proxy-deployment: {_header_text(deployment)}\r\n"


def _reduced_max_tokens(context: RequestContext) -> int | None:
    """The bound that was sent to the serving deployment, if it is below the client's and that is only a ceiling."""
    asked, sent, to = context.request, context.sent, context.serving
    if asked is None or not asked.soft or sent is None or to is None:
        return None
    wanted = asked.max_tokens
    if wanted is None or asked.max_tokens_field not in asked.soft:
        return None
    bound = narrowed_max_tokens(sent, to) or sent.max_tokens
    return bound if bound is not None and bound < wanted else None


@lru_cache(maxsize=4096)
def _header_text(name: str) -> str:
    """The name with unsafe characters replaced by `?`: header values are Latin-1 without line breaks."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(char if " " <= char <= "~" else "?" for char in name)
