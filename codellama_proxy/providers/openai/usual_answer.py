"""Reads plain answers that need no repair, as OpenAI itself writes them: nearly all."""

from __future__ import annotations

from typing import Any

from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import CHAT_COMPLETION, completion_event, is_usage
from codellama_proxy.openai_format.usage import usage_in, usual_usage

_ANSWER = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)
_CHOICE = frozenset({"index", "message", "finish_reason", "logprobs"})
_MESSAGE = frozenset({"role", "content", "refusal", "annotations"})


def usual_answer(body: bytes, found: dict[str, Any]) -> Event | None:
    """The event of the answer `found` with one choice of only text, as it came; `None` for any other.

    `response.parse_response` finds the same in it.
    """
    if not _ANSWER.issuperset(found) or found.get("object") != CHAT_COMPLETION:
        return None
    own, choices, model = found.get("id"), found.get("choices"), found.get("model")
    if type(own) is not str or not own or type(found.get("created")) is not int:
        return None
    if (model is None and "model" in found) or type(model or "") is not str:
        return None
    if type(choices) is not list or len(choices) != 1 or not _is_usual(choices[0]):
        return None
    reported = found.get("usage")
    usage = None if "service_tier" in found or not reported else usual_usage(reported)
    if usage is None and reported is not None:
        if not is_usage(reported):
            return None
        usage = usage_in(found)
    return completion_event(found, body, choices[0]["message"]["content"], usage, model or None)


def _is_usual(choice: Any) -> bool:
    if type(choice) is not dict or not _CHOICE.issuperset(choice) or choice.get("logprobs") is not None:
        return False
    index, message = choice.get("index"), choice.get("message")
    if type(index) is not int or index or choice.get("finish_reason") not in ("stop", "length"):
        return False
    if type(message) is not dict or not _MESSAGE.issuperset(message) or message.get("refusal") is not None:
        return False
    return message.get("role") == "assistant" and type(message.get("content")) is str
