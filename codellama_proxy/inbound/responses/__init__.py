"""OpenAI's Responses API at the door: the mirror of the providers' packages.

`request` parses (with `items`, `content`, `tools`); `answer` writes (with `assembly`, `output`, `calls`, `echo`).
"""

from __future__ import annotations

from codellama_proxy.core import sse
from codellama_proxy.inbound.dialect import Dialect
from codellama_proxy.inbound.responses.answer import ResponsesEncoder
from codellama_proxy.inbound.responses.errors import error_body
from codellama_proxy.inbound.responses.request import parse_responses

__all__ = ["RESPONSES", "ResponsesEncoder"]

RESPONSES = Dialect("responses", parse_responses, ResponsesEncoder, error_body, sse.HEARTBEAT)
