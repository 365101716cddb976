"""Cohere's v2 chat: pure functions on values. Its v1, and its OpenAI-compatible endpoint, are not spoken here."""

from __future__ import annotations

from codellama_proxy.providers.cohere_answer import parse_response, parse_stream
from codellama_proxy.providers.cohere_request import to_request

__all__ = ["parse_response", "parse_stream", "to_request"]
