"""POST /v1/messages/count_tokens and /v1/responses/input_tokens: the prompt tokens of a request."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.inbound.dialect import Dialect
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.inbound.responses import RESPONSES
from codellama_proxy.web.auth import virtual_key
from codellama_proxy.web.http import receive_body, respond
from codellama_proxy.web.state import runtime_of, snapshot_of


async def of_messages(request: Request) -> Response:
    """In Anthropic's form (docs.anthropic.com/en/api/messages-count-tokens)."""
    return respond({"input_tokens": await _counted(request, MESSAGES)}, dialect=MESSAGES)


async def of_responses(request: Request) -> Response:
    """In OpenAI's form (platform.openai.com/docs/api-reference/responses/input-tokens)."""
    counted = await _counted(request, RESPONSES)
    return respond({"object": "response.input_tokens", "input_tokens": counted})


async def _counted(request: Request, dialect: Dialect) -> int:
    key = await virtual_key(request)
    body = await receive_body(request.scope, request.receive, snapshot_of(request).server.max_body)
    return await runtime_of(request).input_tokens.count(dialect, body, lambda: dict(request.headers), key)
