"""Cohere's v2 chat: pure functions on values. Its v1 and its OpenAI-compatible endpoint are not supported."""

from __future__ import annotations

from codellama_proxy.providers.cohere.request import to_request
from codellama_proxy.providers.cohere.response import parse_response, parse_stream

__all__ = ["parse_response", "parse_stream", "to_request"]
