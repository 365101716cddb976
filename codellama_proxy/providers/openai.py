"""OpenAI's dialect, spoken by OpenAI and by everybody in `dialects.DIALECTS`: pure functions on values.

Answers are relayed as the bytes that came, unless something in them would break a client: an unknown finish
reason, a missing tool-call index or id, another provider's field for reasoning, usage where none was asked.
Usage is always asked for, and shown at the end of a stream to those who asked for it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from codellama_proxy import failures
from codellama_proxy.chat import ChatRequest, Message
from codellama_proxy.errors import ProxyError
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.pricing import sane
from codellama_proxy.providers.dialects import DEFAULTS, DIALECTS, Dialect
from codellama_proxy.providers.mapping import BROKEN_FINISH, finish_reason
from codellama_proxy.sse import DONE, Frame
from codellama_proxy.types import Deployment, Event, Failure, HttpRequest

TRACKING_KEYS = frozenset({"pl_tags", "prompt_name", "prompt_version", "prompt_input_variables"})
NEW_MAX_TOKENS = re.compile(r"^(o\d|gpt-[5-9])")  # model families that refuse `max_tokens`
DELTAS = ("content", "tool_calls", "function_call", "reasoning_content", "refusal", "audio")

# --- the request ---------------------------------------------------------------------------------------------


def to_request(chat: ChatRequest, deployment: Deployment) -> HttpRequest:
    """What is sent for `chat`. Raises `ProxyError` unsupported_parameter."""
    dialect = DIALECTS[deployment.provider]
    params, dropped = _params(chat, deployment, dialect)
    body: dict[str, Any] = {
        "model": deployment.model,
        "messages": [_message(message, dialect) for message in chat.messages],
        **params,
    }
    if chat.stream:
        body["stream"] = True
        if dialect.stream_options:
            body["stream_options"] = {"include_usage": True}
    headers = {"content-type": "application/json", **dialect.headers, **deployment.headers}
    if deployment.api_key is not None:
        headers["authorization"] = f"Bearer {deployment.api_key.reveal()}"
    base_url = deployment.base_url or dialect.base_url or ""
    url = base_url.rstrip("/") + "/chat/completions"
    return HttpRequest(url, headers, orjson.dumps(body), dropped=tuple(dropped))


def _params(chat: ChatRequest, deployment: Deployment, dialect: Dialect) -> tuple[dict[str, Any], list[str]]:
    params = dict(chat.params)
    if chat.metadata and "metadata" not in dialect.drop:
        shown = {name: value for name, value in chat.metadata.items() if name not in TRACKING_KEYS}
        if shown:
            params["metadata"] = shown
    dropped: list[str] = []
    for name in dialect.reject & params.keys():
        if params[name] != DEFAULTS.get(name):
            if not deployment.drop_params:
                raise unsupported(deployment.provider, name)
            dropped.append(name)
        del params[name]
    for name in dialect.drop & params.keys():
        del params[name]
    for name, other in dialect.rename.items():
        if name in params:
            params[other] = params.pop(name)
    _rename_max_tokens(params, deployment, dialect)
    _translate_values(params, dialect)
    return params, sorted(dropped)


def unsupported(provider: str, name: str) -> ProxyError:
    message = f"Provider '{provider}' does not support '{name}'. Remove it or set drop_params: true."
    return ProxyError("unsupported_parameter", message, param=name)


def _rename_max_tokens(params: dict[str, Any], deployment: Deployment, dialect: Dialect) -> None:
    wanted = dialect.max_tokens
    if wanted == "by_model":
        family = deployment.base_model or deployment.model
        wanted = "as_is" if not NEW_MAX_TOKENS.match(family) else "by_model"
    old, new = (
        ("max_tokens", "max_completion_tokens")
        if wanted == "by_model"
        else (
            "max_completion_tokens",
            "max_tokens",
        )
    )
    if wanted != "as_is" and old in params:
        params[new] = params.pop(old)


def _translate_values(params: dict[str, Any], dialect: Dialect) -> None:
    choice = params.get("tool_choice")
    if dialect.tool_choice and choice is not None:
        word = choice if isinstance(choice, str) else "named"
        params["tool_choice"] = dialect.tool_choice.get(word, choice)
    if dialect.stop_list and isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if dialect.integer_logprobs and "logprobs" in params:
        wanted = params.pop("logprobs")
        if wanted:
            params["logprobs"] = params.pop("top_logprobs", 1) or 1


def _message(message: Message, dialect: Dialect) -> Message:
    if not dialect.developer_role and message["role"] == "developer":
        message = {**message, "role": "system"}
    if dialect.message_fields_off and dialect.message_fields_off & message.keys():
        return {name: value for name, value in message.items() if name not in dialect.message_fields_off}
    return message


# --- a whole answer ------------------------------------------------------------------------------------------


def parse_response(body: bytes, chat: ChatRequest, deployment: Deployment) -> Event:
    """A whole completion as one event. Raises `AttemptFailed` when a 200 is not an answer."""
    completion = _loads(body)
    choices = completion.get("choices")
    if completion.get("error"):
        raise AttemptFailed(_in_band(body, completion))
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise AttemptFailed(failures.disguised("no_choices", status=200))
    changed = _fill(completion, "chat.completion", chat)
    text: list[str] = []
    for choice in choices:
        message = choice.get("message")
        if not isinstance(message, dict):
            raise AttemptFailed(failures.disguised("no_message", status=200))
        changed |= _fix_message(message, chat.id, whole=True)
        text.append(spoken(message))
        changed |= _fix_finish(choice, text[-1], message)
        changed |= _fix_logprobs(choice)
    return Event(
        body=orjson.dumps(completion) if changed else body,
        content=True,
        text="".join(text),
        usage=sane(completion.get("usage")),
        finish_reason=choices[0].get("finish_reason"),
        model=_name(completion),
    )


def _loads(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise AttemptFailed(failures.disguised("not_json", status=200)) from None
    if not isinstance(found, dict):
        raise AttemptFailed(failures.disguised("not_an_object", status=200))
    return found


def _in_band(raw: bytes, found: Mapping[str, Any]) -> Failure:
    inner = found.get("error")
    status = inner.get("code") if isinstance(inner, dict) else None
    is_status = isinstance(status, int) and 400 <= status < 600
    return failures.in_band(failures.parse_error(raw), status if is_status else 200)


def _fill(found: dict[str, Any], kind: str, chat: ChatRequest) -> bool:
    """Adds what clients count on and some servers leave out."""
    changed = False
    if found.get("object") != kind:
        found["object"] = kind
        changed = True
    if not isinstance(found.get("created"), int):
        found["created"] = chat.created
        changed = True
    if not found.get("id"):
        found["id"] = f"chatcmpl-{chat.id}"
        changed = True
    return changed


def _name(found: Mapping[str, Any]) -> str | None:
    model = found.get("model")
    return model if isinstance(model, str) and model else None


def spoken(message: Mapping[str, Any]) -> str:
    """All the text a message or a delta says, reasoning and tool arguments included: what was paid for."""
    parts = [message.get("reasoning_content"), message.get("content"), message.get("refusal")]
    if isinstance(parts[1], list):
        parts[1:2] = [part.get("text") for part in parts[1] if isinstance(part, dict)]
    calls = message.get("tool_calls")
    functions = (
        [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict):
            parts += [function.get("name"), function.get("arguments")]
    return "".join(part for part in parts if isinstance(part, str))


def _fix_message(message: dict[str, Any], request_id: str, *, whole: bool) -> bool:
    """What a message or a delta must look like. Whether anything had to be changed."""
    changed = False
    reasoning = message.get("reasoning")
    if isinstance(reasoning, str) and "reasoning_content" not in message:
        message["reasoning_content"] = message.pop("reasoning")
        changed = True
    if "token_id" in message:
        del message["token_id"]
        changed = True
    if whole and "content" not in message:
        message["content"] = None if message.get("tool_calls") or message.get("function_call") else ""
        changed = True
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for index, call in enumerate(calls):
            if isinstance(call, dict):
                changed |= _fix_tool_call(call, index, request_id, whole=whole)
    return changed


def _fix_tool_call(call: dict[str, Any], index: int, request_id: str, *, whole: bool) -> bool:
    changed = False
    if not whole and not isinstance(call.get("index"), int):
        found = call.get("index")
        call["index"] = int(found) if isinstance(found, float) else index
        changed = True
    function = call.get("function")
    named = isinstance(function, dict) and function.get("name")
    if not call.get("id") and (whole or named):  # later fragments of a streamed call carry no id
        call["id"] = f"call_{request_id}_{index}"
        changed = True
    if isinstance(function, dict) and isinstance(function.get("arguments"), dict | list):
        function["arguments"] = orjson.dumps(function["arguments"]).decode()
        changed = True
    return changed


def _fix_finish(choice: dict[str, Any], text: str, message: Mapping[str, Any]) -> bool:
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


def _fix_logprobs(choice: dict[str, Any]) -> bool:
    """The legacy shape `{tokens, token_logprobs}` becomes `{content: [...]}`."""
    found = choice.get("logprobs")
    if not isinstance(found, dict) or "tokens" not in found or "content" in found:
        return False
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    choice["logprobs"] = {
        "content": [
            {"token": token, "logprob": value, "bytes": None, "top_logprobs": []}
            for token, value in zip(tokens, values, strict=False)
        ]
    }
    return True


# --- a streamed answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the next frame's meaning depends on."""

    id: str | None = None
    created: int = 0
    model: str | None = None
    open: frozenset[int] = frozenset()
    """Choices that began and have not finished."""
    finished: bool = False
    """At least one choice gave its finish reason."""
    called: bool = False
    """A tool was called, so the end is `tool_calls` whatever the upstream says."""
    usage: Mapping[str, Any] | None = None
    """The latest report: some send a running total with every chunk, only the last one counts."""
    done: bool = False

    @property
    def complete(self) -> bool:
        """Nothing is missing, whether or not `[DONE]` came."""
        return self.done or (self.finished and not self.open)


def parse_stream(
    state: StreamState | None, frame: Frame, chat: ChatRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptFailed` for an error event."""
    state = state or StreamState()
    if frame.data == DONE:
        return replace(state, done=True), _closing(state)
    try:
        chunk = orjson.loads(frame.data)
    except orjson.JSONDecodeError:
        return state, ()  # one bad line among good ones: the rest is still an answer
    if not isinstance(chunk, dict):
        return state, ()
    if chunk.get("error"):
        raise AttemptFailed(_in_band(frame.data, chunk))
    choices = chunk.get("choices")
    usage = chunk.get("usage")
    events: list[Event] = []
    if usage:
        state = replace(state, usage=usage)
        events.append(Event(b"", usage=sane(usage), model=_name(chunk)))
    if isinstance(choices, list) and choices:
        state, event = _content(state, chunk, frame.data, chat)
        events.append(event)
    return state, events


def _content(
    state: StreamState, chunk: dict[str, Any], raw: bytes, chat: ChatRequest
) -> tuple[StreamState, Event]:
    changed = _strip(chunk)
    if state.id is None:
        changed |= _fill(chunk, "chat.completion.chunk", chat)
        state = replace(state, id=chunk["id"], created=chunk["created"], model=_name(chunk))
    elif chunk.get("id") != state.id or chunk.get("created") != state.created:
        chunk["id"], chunk["created"] = state.id, state.created
        changed = True
    text = ""
    reason = None
    meaningful = False
    for choice in chunk["choices"]:
        if not isinstance(choice, dict):
            raise AttemptFailed(failures.disguised("no_choices", status=200))
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice["delta"] = {}
            changed = True
        changed |= _fix_message(delta, chat.id, whole=False)
        said = spoken(delta)
        text += said
        meaningful |= any(delta.get(name) for name in DELTAS)
        state, fixed = _track(state, choice, delta, said)
        changed |= fixed
        reason = choice.get("finish_reason") or reason
    # Data that came over several lines has line ends in it: an event of ours is one line.
    body = orjson.dumps(chunk) if changed or b"\n" in raw else _without_null_usage(raw)
    return state, Event(body, meaningful or reason is not None, text, None, reason, state.model)


def _track(
    state: StreamState, choice: dict[str, Any], delta: Mapping[str, Any], said: str
) -> tuple[StreamState, bool]:
    """Which choices are open, and the finish reason in OpenAI's words."""
    found = choice.get("index")
    index = found if isinstance(found, int) else 0
    if delta.get("tool_calls") and not state.called:
        state = replace(state, called=True)
    if choice.get("finish_reason") is None:
        if index not in state.open and said:
            state = replace(state, open=state.open | {index})
        return state, False
    changed = _fix_finish(choice, said or ("open" if index in state.open else ""), delta)
    if state.called and choice["finish_reason"] == "stop":
        choice["finish_reason"] = "tool_calls"
        changed = True
    return replace(state, open=state.open - {index}, finished=True), changed


def _strip(chunk: dict[str, Any]) -> bool:
    """Removes what belongs to the end of the stream, or to nobody."""
    changed = False
    if chunk.get("usage"):
        del chunk["usage"]
        changed = True
    for name in ("obfuscation", "x_groq"):
        if name in chunk:
            del chunk[name]
            changed = True
    return changed


def _without_null_usage(raw: bytes) -> bytes:
    """Old clients stumble over `usage: null`. Inside a JSON string the quotes would be escaped."""
    return raw.replace(b',"usage":null', b"").replace(b', "usage": null', b"")


def _closing(state: StreamState) -> Sequence[Event]:
    """The usage chunk, once, at the end."""
    if state.usage is None:
        return ()
    return (usage_event(state.id or "", state.created, state.model, state.usage),)


def usage_event(answer_id: str, created: int, model: str | None, usage: Mapping[str, Any]) -> Event:
    """The last chunk of a stream whose client set `stream_options.include_usage`."""
    chunk = {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model or "",
        "choices": [],
        "usage": usage,
    }
    return Event(orjson.dumps(chunk), usage=sane(usage), usage_only=True)
