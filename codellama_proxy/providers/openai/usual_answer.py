"""Reads plain answers that need no repair, as OpenAI itself writes them: nearly all."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import CHAT_COMPLETION, completion_event, is_usage
from codellama_proxy.openai_format.usage import usage_in, usual_usage

_ANSWER = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)
_CHOICE = frozenset({"index", "message", "finish_reason", "logprobs"})
_MESSAGE = frozenset({"role", "content", "refusal", "annotations"})
_of_answer = itemgetter("id", "object", "created", "model", "choices", "usage")
_of_choice = itemgetter("index", "message", "finish_reason")
_of_message = itemgetter("role", "content")


def usual_answer(body: bytes, found: dict[str, Any]) -> Event | None:
    """The event of the answer `found` with one choice of only text, as it came; `None` for any other.

    `response.repaired_answer` finds the same in it.
    """
    try:
        own, kind, created, model, choices, reported = _of_answer(found)
        (choice,) = choices
        index, message, reason = _of_choice(choice)
        role, content = _of_message(message)
    except (KeyError, TypeError, ValueError):
        return None
    if not (type(own) is type(model) is type(content) is str and type(created) is type(index) is int):
        return None
    if not (own and model and kind == CHAT_COMPLETION and role == "assistant") or index:
        return None
    if (
        reason not in ("stop", "length")
        or type(choices) is not list
        or not _has_no_more(found, choice, message)
    ):
        return None
    usage = None if "service_tier" in found else usual_usage(reported)
    if usage is None:
        if not is_usage(reported):
            return None
        usage = usage_in(found)
    return completion_event(found, body, content, usage, model)


def _has_no_more(found: dict[str, Any], choice: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether it has no fields that only `response.repaired_answer` reads or repairs."""
    if not (_ANSWER.issuperset(found) and _CHOICE.issuperset(choice) and _MESSAGE.issuperset(message)):
        return False
    return choice.get("logprobs") is None and message.get("refusal") is None
