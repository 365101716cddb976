"""OpenAI's dialect, spoken by OpenAI and by everybody in `dialects.DIALECTS`: pure functions on values.

Answers are relayed as the bytes that came, unless something in them would break a client: an unknown finish
reason, a missing tool-call index or id, another provider's field for reasoning, usage where none was asked.
Usage is always asked for, and shown at the end of a stream to those who asked for it too.
"""

from __future__ import annotations

from codellama_proxy.providers.openai_answer import parse_response
from codellama_proxy.providers.openai_request import to_request
from codellama_proxy.providers.openai_stream import StreamState, parse_stream

__all__ = ["StreamState", "parse_response", "parse_stream", "to_request"]
