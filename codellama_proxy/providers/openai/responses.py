"""Chats with models that exist only at OpenAI's Responses API."""

from __future__ import annotations

from codellama_proxy.providers.openai.responses_answer import parse_response
from codellama_proxy.providers.openai.responses_request import to_request
from codellama_proxy.providers.openai.responses_stream import StreamState, parse_stream

__all__ = ["StreamState", "parse_response", "parse_stream", "to_request"]
