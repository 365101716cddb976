"""Anthropic's Messages API, for Claude wherever it is hosted: pure functions on values.

What models can and cannot do is data, in `anthropic_models`. The guardrail is the first system message, so it
comes first in the top-level `system`. Legacy functions are tools in between (`legacy`).
"""

from __future__ import annotations

from codellama_proxy.providers.anthropic.request import to_request
from codellama_proxy.providers.anthropic.response import parse_response
from codellama_proxy.providers.anthropic.stream import StreamState, parse_stream

__all__ = ["StreamState", "parse_response", "parse_stream", "to_request"]
