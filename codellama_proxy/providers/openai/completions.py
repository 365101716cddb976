"""Text completions in OpenAI's format: pure functions on values.

Answers in OpenAI's format are relayed byte for byte. Mistral answers in the format of chats, and Together names its
objects differently: clients get `text_completion` and `choices[].text` from every provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, HttpRequest
from codellama_proxy.openai_format.completion import TEXT_COMPLETION, completion_event
from codellama_proxy.openai_format.request import InferenceRequest, several
from codellama_proxy.openai_format.usage import usage_in
from codellama_proxy.providers.common.json_reading import load_document, model_of, words_at, wrong
from codellama_proxy.providers.openai.completions_profiles import (
    COMPLETION_PROFILES,
    END_OF_GAP,
    CompletionProfile,
    fills_by_tokens,
    with_gap,
)
from codellama_proxy.providers.openai.endpoint_urls import address, credential, upstream_model
from codellama_proxy.providers.openai.profiles import OpenAIProfile, profile_of
from codellama_proxy.providers.openai.request import filter_params
from codellama_proxy.providers.openai.response import choices_of, fill, fix_finish, fix_indexes, fix_usage
from codellama_proxy.providers.openai.stream import constant, parse_frame, wanted
from codellama_proxy.providers.openai.stream_state import ChoiceState, StreamState

__all__ = ["parse_response", "parse_stream", "to_request"]


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
    dialect, row = profile_of(deployment), COMPLETION_PROFILES[deployment.provider]
    params, dropped = filter_params(dict(chat.params), deployment, dialect, row.reject)
    if "max_completion_tokens" in params:
        params["max_tokens"] = params.pop("max_completion_tokens")
    if row.one_text:
        params["prompt"] = _one_text(params["prompt"], deployment)
    if "suffix" in params and fills_by_tokens(row, deployment.base_model or deployment.model):
        _fill_by_tokens(params, deployment)
    if dialect.stop_list and isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if chat.stream:
        params["stream"] = True
        if dialect.stream_options:
            params["stream_options"] = {"include_usage": True}
    return HttpRequest(
        _address(deployment, dialect, row),
        {
            "content-type": "application/json",
            **dialect.headers,
            **deployment.headers,
            **credential(deployment, dialect),
        },
        orjson.dumps({"model": upstream_model(deployment), **params}, default=dict),
        dropped=tuple(dropped),
    )


def _address(deployment: Deployment, dialect: OpenAIProfile, row: CompletionProfile) -> str:
    place = address(deployment, dialect, row.path)
    if row.path.startswith("/beta/"):  # beside the version's path, not below it
        base = place.removesuffix(row.path)
        return base.removesuffix("/v1").removesuffix("/beta") + row.path
    return place


def _one_text(prompt: Any, deployment: Deployment) -> str:
    match several(prompt):
        case [str(text)]:
            return text
    message = f"Provider '{deployment.provider}' takes one prompt, as text."
    raise ProxyError("unsupported_parameter", message, param="prompt")


def _fill_by_tokens(params: dict[str, Any], deployment: Deployment) -> None:
    """Marks the gap in the prompt with the model's infilling tokens, and stops at its end token."""
    before, after = several(params["prompt"]), params.pop("suffix")
    if not all(isinstance(text, str) for text in before):
        message = f"Provider '{deployment.provider}' fills in between texts, not token ids."
        raise ProxyError("unsupported_parameter", message, param="suffix")
    filled = [with_gap(text, after) for text in before]
    params["prompt"] = filled if isinstance(params["prompt"], list) else filled[0]
    stop = params.get("stop") or []
    params["stop"] = [*([stop] if isinstance(stop, str) else stop), END_OF_GAP]


# --- answers -------------------------------------------------------------------------------------------------


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    body, found = load_document(body)
    choices = choices_of(body, found)
    changed = fill(found, TEXT_COMPLETION, chat, deployment.model) | fix_indexes(choices)
    texts: list[str] = []
    for choice in choices:
        moved = _move_text(choice)
        text = choice.get("text")
        if not isinstance(text, str):
            wrong("no_text")
        changed |= moved | fix_finish(choice, text, {})
        texts.append(text)
    usage = usage_in(found)
    changed |= fix_usage(found)
    body = orjson.dumps(found) if changed else body
    return completion_event(found, body, "".join(texts), usage, model_of(found))


def _move_text(choice: dict[str, Any]) -> bool:
    """Moves a choice's text from any field to `text`; returns whether the choice was changed.

    Raises `AttemptError` if it is not a string.
    """
    changed = False
    for name in ("delta", "message"):
        if name in choice:
            other = choice.pop(name)
            if choice.get("text") is None:
                choice["text"] = words_at(other, "content")
            changed = True
    if not isinstance(choice.get("text"), str | None):
        wrong("no_text")
    return changed


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next frame. Raises `AttemptError` for an error or an invalid chunk."""
    state = state or StreamState(model=deployment.model, wanted=wanted(chat) * len(several(chat.given)))
    return parse_frame(state, frame, chat, TEXT_COMPLETION, _content)


def _content(
    state: StreamState, chunk: dict[str, Any], raw: bytes, chat: InferenceRequest
) -> tuple[StreamState, Event]:
    """The event of a chunk with choices; its body is the original bytes unless something had to be changed."""
    changed = chunk.pop("usage", chunk) is not chunk
    changed |= b"\n" in raw  # an event of several lines becomes one line
    state, fixed = constant(state, chunk, chat, TEXT_COMPLETION)
    changed |= fixed | fix_indexes(chunk["choices"])
    texts: list[str] = []
    reason = None
    after: dict[int, ChoiceState] = {}
    finished = state.finished
    for choice in chunk["choices"]:
        before = state.choices.get(choice["index"], ChoiceState())
        now, text, fixed = _choice(before, choice)
        if now != before:
            after[choice["index"]] = now
        changed |= fixed
        texts.append(text)
        if ended := choice.get("finish_reason"):
            reason, finished = ended, finished + 1
    state = state.with_choices(after, finished)
    body = orjson.dumps(chunk) if changed else raw
    text = "".join(texts)
    return state, Event(body, bool(text) or reason is not None, text, None, reason, state.model)


def _choice(state: ChoiceState, choice: dict[str, Any]) -> tuple[ChoiceState, str, bool]:
    """The state after one choice of a chunk, the text in it, and whether it was changed."""
    changed = _move_text(choice)
    if choice.get("text") is None:
        choice["text"] = ""
        changed = True
    text = choice["text"]
    changed |= fix_finish(choice, text or ("open" if state.open else ""), {})
    if choice.get("finish_reason"):
        state = state._replace(open=False)
    elif text and not state.open:
        state = state._replace(open=True)
    return state, text, changed
