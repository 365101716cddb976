"""Parses plain answers in OpenAI's dialect; the repairs are shared with streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.completion import completion_event, is_usage, message_text
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import read_usage, usage_in
from codellama_proxy.providers.common import tool_calls as calls
from codellama_proxy.providers.common.answers import usage_json
from codellama_proxy.providers.common.finish_reasons import ABANDONED, BROKEN_FINISH, finish_reason
from codellama_proxy.providers.common.json_reading import (
    failure_in_band,
    is_error,
    listed,
    load_document,
    model_of,
    words_at,
    wrong,
)
from codellama_proxy.providers.common.tool_calls import number
from codellama_proxy.providers.openai.usual_answer import usual_answer


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    body, completion = load_document(body)
    return usual_answer(body, completion) or repaired_answer(body, completion, chat, deployment.model)


def repaired_answer(body: bytes, completion: dict[str, Any], chat: InferenceRequest, model: str) -> Event:
    """The event of any answer; `model` is for one that names none. Raises `AttemptError` for what is none."""
    choices = choices_of(body, completion)
    changed = fill(completion, "chat.completion", chat, model)
    changed |= fix_indexes(choices)
    text: list[str] = []
    for choice in choices:
        message = choice.get("message")
        if not isinstance(message, dict):
            wrong("no_message")
        changed |= _fix_whole(message, f"call_{chat.id}_{choice['index']}")
        content = message_text(message)
        text.append(content)
        changed |= fix_finish(choice, content, message)
        changed |= fix_logprobs(choice, content)
    usage = usage_in(completion)
    changed |= fix_usage(completion)
    body = orjson.dumps(completion) if changed else body
    return completion_event(completion, body, "".join(text), usage, model_of(completion))


MAX_CHOICES = 2048
"""Maximum number of choices: more than `n` times the prompts that any upstream accepts."""


def choices_of(body: bytes, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a plain answer, at least one. Raises `AttemptError` if they are invalid."""
    choices = found.get("choices")
    if is_error(found):
        raise AttemptError(failure_in_band(body, found))
    if not isinstance(choices, list) or not choices:
        wrong("no_choices")
    for choice in choices:
        check_choice(body, choice)
    if len(choices) > MAX_CHOICES:
        wrong("too_many_choices")
    return choices


def check_choice(body: bytes, choice: object) -> None:
    """Raises `AttemptError` for a choice that is not an object, or that contains an error."""
    if not isinstance(choice, dict):
        wrong("no_choices")
    if choice.get("error"):
        raise AttemptError(failure_in_band(orjson.dumps({"error": choice["error"]}), choice))


def fix_indexes(choices: Sequence[dict[str, Any]]) -> bool:
    """Gives choices their position as index if the upstream's indexes are missing or not unique."""
    indexes = [number(choice.get("index")) for choice in choices]
    if len(set(indexes)) < len(indexes) or None in indexes:
        indexes = list(range(len(choices)))
    changed = False
    for index, choice in zip(indexes, choices, strict=True):
        if type(choice.get("index")) is not int or choice["index"] != index:
            choice["index"] = index
            changed = True
    return changed


def fill(found: dict[str, Any], kind: str, chat: InferenceRequest, model: str | None) -> bool:
    """Adds fields that clients require and some servers omit."""
    changed = False
    if found.get("object") != kind:
        found["object"] = kind
        changed = True
    if type(found.get("created")) is not int:
        found["created"] = chat.created
        changed = True
    if not isinstance(found.get("id"), str) or not found["id"]:
        prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
        found["id"] = f"{prefix}-{chat.id}"
        changed = True
    if model and not model_of(found):
        found["model"] = model
        changed = True
    return changed


def fix_usage(found: dict[str, Any]) -> bool:
    """Replaces a usage object that strict clients reject by a valid one; returns whether there was one."""
    usage = found.get("usage")
    if usage is None or is_usage(usage):
        return False
    understood = read_usage(usage)
    if understood is None:
        del found["usage"]
        return True
    found["usage"] = usage_json(understood)
    if "choices" not in found:  # embeddings have no completion tokens
        del found["usage"]["completion_tokens"], found["usage"]["completion_tokens_details"]
    return True


_TEXTS = ("content", "reasoning_content", "refusal")


def fix_message(message: dict[str, Any]) -> bool:
    """Repairs the fields of a message or a delta in place; returns whether it was changed.

    Raises `AttemptError` for text of another type.
    """
    changed = False
    if "role" in message and message["role"] != "assistant":
        message["role"] = "assistant"
        changed = True
    if isinstance(message.get("reasoning"), str) and not message.get("reasoning_content"):
        message["reasoning_content"] = message.pop("reasoning")
        changed = True
    if isinstance(message.get("content"), list):
        _join_parts(message)
        changed = True
    for name in _TEXTS:
        if not isinstance(message.get(name), str | None):
            wrong("not_a_text")
    if "function_call" in message:
        changed |= _fix_function(message)
    if "token_id" in message:
        del message["token_id"]
        changed = True
    return changed


def _fix_function(message: dict[str, Any]) -> bool:
    """Repairs a legacy function call in place; returns whether it was changed. Raises `AttemptError`."""
    function = message["function_call"]
    if not function:
        del message["function_call"]
        return True
    if not isinstance(function, dict) or not isinstance(function.get("name"), str | None):
        wrong("bad_function_call")
    if isinstance(function.get("arguments"), dict | list):
        function["arguments"] = orjson.dumps(function["arguments"]).decode()
        return True
    if not isinstance(function.get("arguments"), str | None):
        wrong("bad_function_call")
    return False


def _join_parts(message: dict[str, Any]) -> None:
    """Joins content parts to one text; thinking parts become reasoning."""
    parts = [{"text": part} if isinstance(part, str) else part for part in message["content"]]
    if not all(isinstance(part, dict) for part in parts):
        wrong("not_a_text")
    thoughts = "".join(_thought(part.get("thinking")) for part in parts)
    message["content"] = "".join(words_at(part, "text") for part in parts) or None
    if thoughts:
        message["reasoning_content"] = thoughts


def _thought(thinking: object) -> str:
    if isinstance(thinking, list):
        return "".join(_thought(part.get("text")) for part in thinking if isinstance(part, dict))
    return thinking if isinstance(thinking, str) else ""


def _fix_whole(message: dict[str, Any], own_id: str) -> bool:
    """Adds fields that only a whole message must have."""
    changed = fix_message(message)
    changed |= message.setdefault("role", "") == ""
    message["role"] = "assistant"
    changed |= calls.whole(message, own_id)
    if "content" not in message:
        message["content"] = None if message.get("tool_calls") or message.get("function_call") else ""
        changed = True
    return changed


def fix_finish(choice: dict[str, Any], text: str, message: Mapping[str, Any]) -> bool:
    """Replaces the finish reason by OpenAI's value; returns whether it was changed.

    Raises `AttemptError` if the upstream aborted the answer.
    """
    reason = choice.get("finish_reason")
    if reason is None:
        return False
    if not reason:
        choice["finish_reason"] = None
        return True
    if not isinstance(reason, str):
        wrong("bad_finish_reason")
    if reason.lower() in ABANDONED or (reason.lower() in BROKEN_FINISH and not text):
        wrong("finish_error")
    mapped = finish_reason(reason)
    if mapped == "stop" and message.get("tool_calls"):
        mapped = "tool_calls"
    choice["finish_reason"] = mapped
    return mapped != reason


def fix_logprobs(choice: dict[str, Any], text: str) -> bool:
    """Converts `{tokens, token_logprobs}` or a bare number to OpenAI's `{content: [...]}`."""
    found = choice.get("logprobs")
    if found is None:
        return False
    if isinstance(found, dict) and "tokens" in found and "content" not in found:
        choice["logprobs"] = _logprobs(listed(found.get("tokens")), listed(found.get("token_logprobs")))
        return True
    if isinstance(found, float | int) and not isinstance(found, bool):
        choice["logprobs"] = _logprobs([text], [found])
        return True
    if isinstance(found, dict) and all(_are_logprobs(found.get(name)) for name in ("content", "refusal")):
        return False
    choice["logprobs"] = None
    return True


def _logprobs(tokens: list[Any], values: list[Any]) -> dict[str, Any]:
    return {
        "content": [
            {"token": token, "logprob": value, "bytes": None, "top_logprobs": []}
            for token, value in zip(tokens, values, strict=False)
            if isinstance(token, str) and isinstance(value, int | float)
        ]
    }


def _are_logprobs(found: object) -> bool:
    return found is None or (isinstance(found, list) and all(isinstance(one, dict) for one in found))
