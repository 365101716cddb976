"""A whole answer in OpenAI's dialect, and the repairs that streamed ones need too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from codellama_proxy import failures
from codellama_proxy.chat import ChatRequest
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.providers.mapping import BROKEN_FINISH, finish_reason
from codellama_proxy.types import Deployment, Event, Failure
from codellama_proxy.usage import usage_in


def parse_response(body: bytes, chat: ChatRequest, deployment: Deployment) -> Event:
    """A whole completion as one event. Raises `AttemptFailed` when a 200 is not an answer."""
    completion = loads(body)
    choices = completion.get("choices")
    if completion.get("error"):
        raise AttemptFailed(in_band(body, completion))
    if not isinstance(choices, list) or not choices:
        raise AttemptFailed(failures.disguised("no_choices", status=200))
    changed = fill(completion, "chat.completion", chat)
    text: list[str] = []
    for choice in choices:
        if not isinstance(choice, dict):
            raise AttemptFailed(failures.disguised("no_choices", status=200))
        message = choice.get("message")
        if not isinstance(message, dict):
            raise AttemptFailed(failures.disguised("no_message", status=200))
        if _PLAIN.issuperset(message) and isinstance(message.get("content"), str):
            said = message["content"]
        else:
            changed |= _fix_whole(message, chat.id)
            said = spoken(message)
        text.append(said)
        changed |= fix_finish(choice, said, message)
        changed |= fix_logprobs(choice, said)
    return Event(
        body=orjson.dumps(completion) if changed else body,
        content=True,
        text="".join(text),
        usage=usage_in(completion),
        finish_reason=choices[0].get("finish_reason"),
        model=name_of(completion),
    )


_PLAIN = frozenset({"role", "content"})
"""What most messages have: nothing in them needs a repair."""


def loads(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise AttemptFailed(failures.disguised("not_json", status=200)) from None
    if not isinstance(found, dict):
        raise AttemptFailed(failures.disguised("not_an_object", status=200))
    return found


def in_band(raw: bytes, found: Mapping[str, Any]) -> Failure:
    return replace(failures.in_band(failures.parse_error(raw), 200), usage=usage_in(found))


def fill(found: dict[str, Any], kind: str, chat: ChatRequest) -> bool:
    """Adds what clients count on and some servers leave out."""
    changed = False
    if found.get("object") != kind:
        found["object"] = kind
        changed = True
    if not isinstance(found.get("created"), int):
        found["created"] = chat.created
        changed = True
    if not found.get("id"):
        prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
        found["id"] = f"{prefix}-{chat.id}"
        changed = True
    return changed


def name_of(found: Mapping[str, Any]) -> str | None:
    model = found.get("model")
    return model if isinstance(model, str) and model else None


def spoken(message: Mapping[str, Any]) -> str:
    """All the text a message or a delta says, reasoning and tool arguments included: what was paid for."""
    parts = [message.get("reasoning_content"), message.get("content"), message.get("refusal")]
    if isinstance(parts[1], list):
        parts[1:2] = [part.get("text") for part in parts[1] if isinstance(part, dict)]
    functions = [call.get("function") for call in tool_calls(message)]
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict):
            parts += [function.get("name"), function.get("arguments")]
    return "".join(part for part in parts if isinstance(part, str))


def fix_message(message: dict[str, Any]) -> bool:
    """The fields of a message or a delta. Whether anything had to be changed."""
    changed = False
    if isinstance(message.get("reasoning"), str) and "reasoning_content" not in message:
        message["reasoning_content"] = message.pop("reasoning")
        changed = True
    if isinstance(message.get("content"), list):
        _join_parts(message)
        changed = True
    if "token_id" in message:
        del message["token_id"]
        changed = True
    return changed


def _join_parts(message: dict[str, Any]) -> None:
    """Content in parts becomes one text, and thoughts among them reasoning."""
    parts = [part for part in message["content"] if isinstance(part, dict)]
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    thoughts = "".join(_thought(part.get("thinking")) for part in parts)
    message["content"] = text or None
    if thoughts:
        message["reasoning_content"] = thoughts


def _thought(thinking: object) -> str:
    if isinstance(thinking, list):
        return "".join(_thought(part.get("text")) for part in thinking if isinstance(part, dict))
    return thinking if isinstance(thinking, str) else ""


def _fix_whole(message: dict[str, Any], request_id: str) -> bool:
    """What only a whole message must have."""
    changed = fix_message(message)
    calls = tool_calls(message)
    if "content" not in message:
        message["content"] = None if calls or message.get("function_call") else ""
        changed = True
    for index, call in enumerate(calls):
        function = call.get("function")
        if isinstance(function, dict) and function.get("arguments") is None:
            function["arguments"] = "{}"
            changed = True
        changed |= fix_tool_call(call, f"call_{request_id}_{index}")
    return changed


def tool_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def fix_tool_call(call: dict[str, Any], call_id: str) -> bool:
    """A call, or the first fragment of one."""
    changed = False
    if not call.get("id"):
        call["id"] = call_id
        changed = True
    if not call.get("type"):
        call["type"] = "function"
        changed = True
    return fix_arguments(call) or changed


def fix_arguments(call: Mapping[str, Any]) -> bool:
    """Arguments are a string of JSON, however natural an object would be."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict | list):
        return False
    function["arguments"] = orjson.dumps(function["arguments"]).decode()
    return True


def fix_finish(choice: dict[str, Any], text: str, message: Mapping[str, Any]) -> bool:
    """OpenAI's word for why it ended. Raises `AttemptFailed` when it ended because the upstream broke."""
    reason = choice.get("finish_reason")
    if reason is None:
        return False
    if not isinstance(reason, str):
        reason = ""
    if reason.lower() in BROKEN_FINISH and not text:
        raise AttemptFailed(failures.disguised("finish_error", status=200))
    mapped = finish_reason(reason)
    if mapped == "stop" and message.get("tool_calls"):
        mapped = "tool_calls"
    choice["finish_reason"] = mapped
    return mapped != reason


def fix_logprobs(choice: dict[str, Any], text: str) -> bool:
    """`{tokens, token_logprobs}` and the bare number of a streamed token become `{content: [...]}`."""
    found = choice.get("logprobs")
    if isinstance(found, float | int):
        tokens, values = [text], [found]
    elif isinstance(found, dict) and "tokens" in found and "content" not in found:
        tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    else:
        return False
    choice["logprobs"] = {
        "content": [
            {"token": token, "logprob": value, "bytes": None, "top_logprobs": []}
            for token, value in zip(tokens, values, strict=False)
        ]
    }
    return True
