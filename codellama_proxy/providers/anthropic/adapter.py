"""Anthropic's Messages API, for Claude on any host: pure functions on values.

The capabilities of models are data, in `capabilities`. The guardrail is the first system message, so it comes first
in the top-level `system`. Legacy functions are converted to tools (`common.legacy_functions`).
"""

from __future__ import annotations

from codellama_proxy.providers.anthropic.request import to_request
from codellama_proxy.providers.anthropic.response import parse_response
from codellama_proxy.providers.anthropic.stream import StreamState, parse_stream

__all__ = ["StreamState", "parse_response", "parse_stream", "to_request"]
