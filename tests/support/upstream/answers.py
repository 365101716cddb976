"""Answers in OpenAI's shapes, whole and in chunks. Pure: the same body and step give the same answer."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.upstream import shell
from tests.support.upstream.script import Step

CREATED = 1_795_340_000


@dataclass(frozen=True, slots=True)
class Choice:
    """What one choice says, already cut into tokens."""

    pieces: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    refusal: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    """Name and arguments."""
    function_call: tuple[str, str] | None = None
    finish: str = "stop"

    @property
    def tokens(self) -> int:
        calls = len(self.tool_calls) + (self.function_call is not None)
        return len(self.pieces) + len(self.reasoning) + (self.refusal is not None) + 5 * calls


@dataclass(frozen=True, slots=True)
class Answer:
    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Any
    """What is reported: normally an object; `None`: nothing."""


def answer(body: Mapping[str, Any], step: Step, number: int) -> Answer:
    """The answer to one request; `number` makes its id."""
    one = choice(body, step)
    choices = (one,) * int(body.get("n") or 1)
    return Answer(f"up-{number}", str(body.get("model")), choices, usage(body, step, choices))


def choice(body: Mapping[str, Any], step: Step) -> Choice:
    if "tools" in step and body.get("tools"):
        names = [tool["function"]["name"] for tool in body["tools"]]
        calls = tuple((name, json.dumps({"city": "Oslo", "call": i})) for i, name in enumerate(names))
        return Choice(tool_calls=calls, finish="tool_calls")
    if ("shell" in step or "call" in step) and (call := shell.call(body, step.text("call"))):
        return Choice(tokenize("I will run it."), tool_calls=(call,), finish="tool_calls")
    if "function" in step and body.get("functions"):
        name = body["functions"][0]["name"]
        return Choice(function_call=(name, '{"city": "Oslo"}'), finish="function_call")
    if "refuse" in step:
        return Choice(refusal="I cannot help with that.")
    pieces = tokenize(answer_text(body, step))
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    finish = step.text("finish", "stop")
    if isinstance(limit, int) and limit < len(pieces):
        pieces, finish = pieces[:limit], "length"
    reasoning = (f"{step.label}-thinks ", "hard") if "reasoning" in step else ()
    return Choice(pieces, reasoning, finish=finish)


def answer_text(body: Mapping[str, Any], step: Step) -> str:
    if "echo" in step:
        return json.dumps(body)
    if "call" in step:
        return shell.returned(body) or "Nothing was called."
    if "shell" in step:
        return shell.summary(body)
    if "json" in step:
        return json.dumps({"answer": 42, "from": step.label})
    fat = "-fat" * int(step.number("fat"))
    default = " ".join(f"{step.label}-{i}{fat}" for i in range(int(step.number("tokens", 8))))
    return step.text("say", default)


def tokenize(text: str) -> tuple[str, ...]:
    """Pieces that join to the text again."""
    return tuple(re.findall(r"\S+\s*|\s+", text))


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """A count that a test can redo: 5 and a quarter of the characters in all that was said."""
    spoken = body.get("messages", body.get("prompt", body.get("input")))
    return 5 + len(json.dumps(spoken)) // 4


def usage(body: Mapping[str, Any], step: Step, choices: tuple[Choice, ...]) -> Any:
    if "no_usage" in step:
        return None
    if "usage_json" in step:
        return json.loads(step.text("usage_json"))
    prompt, completion, cached = prompt_tokens(body), sum(one.tokens for one in choices), 0
    if "usage" in step:
        given = [int(part) for part in step.text("usage").split(",")]
        prompt, completion, cached = (*given, 0)[:3]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


# --- chat ----------------------------------------------------------------------------------------------


def chat(answer: Answer) -> dict[str, Any]:
    """A whole chat completion."""
    choices = [
        {"index": i, "message": _message(one), "logprobs": None, "finish_reason": one.finish}
        for i, one in enumerate(answer.choices)
    ]
    return _whole(answer, "chat.completion", choices)


def chat_chunks(answer: Answer, step: Step, asked_usage: bool) -> Iterator[tuple[dict[str, Any], bool]]:
    """The chunks of a chat stream; the flag says whether one counts as a token."""
    every = {"usage": None} if asked_usage else {}

    def chunk(index: int, delta: Any, finish: str | None = None) -> dict[str, Any]:
        choices = [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return {**_frame(answer, "chat.completion.chunk"), "choices": choices, **every}

    for i in range(len(answer.choices)):
        yield chunk(i, {"role": "assistant", "content": ""}), False
    rows = [list(_deltas(one)) for one in answer.choices]
    for k in range(max(len(row) for row in rows)):
        for i, row in enumerate(rows):
            yield chunk(i, row[k]), True
    shown = answer.usage if asked_usage else None
    for i, one in enumerate(answer.choices):
        last = chunk(i, {}, one.finish)
        if shown and "usage_with_finish" in step and i == len(answer.choices) - 1:
            last, shown = {**last, "usage": shown}, None
        yield last, False
    yield from _usage_chunks(answer, step, "chat.completion.chunk", shown)


def _usage_chunks(answer: Answer, step: Step, kind: str, shown: Any) -> Iterator[tuple[dict[str, Any], bool]]:
    if shown is None:
        return
    if "usage_twice" in step:
        false = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        yield {**_frame(answer, kind), "choices": [], "usage": false}, False
    yield {**_frame(answer, kind), "choices": [], "usage": shown}, False


def _message(one: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(one.pieces), "refusal": one.refusal}
    if one.reasoning:
        message["reasoning_content"] = "".join(one.reasoning)
    if one.tool_calls:
        message["tool_calls"] = [{"id": f"call_{i}", **_call(*call)} for i, call in enumerate(one.tool_calls)]
    if one.function_call:
        message["function_call"] = _call(*one.function_call)["function"]
    if one.tool_calls or one.function_call or one.refusal:
        message["content"] = None
    return message


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _deltas(one: Choice) -> Iterator[dict[str, Any]]:
    for piece in one.reasoning:
        yield {"reasoning_content": piece}
    for piece in one.pieces:
        yield {"content": piece}
    if one.refusal:
        yield {"refusal": one.refusal}
    for i, (name, arguments) in enumerate(one.tool_calls):
        yield {"tool_calls": [{"index": i, "id": f"call_{i}", **_call(name, "")}]}
        for part in _parts(arguments):
            yield {"tool_calls": [{"index": i, "function": {"arguments": part}}]}
    if one.function_call:
        name, arguments = one.function_call
        yield {"function_call": {"name": name, "arguments": ""}}
        for part in _parts(arguments):
            yield {"function_call": {"arguments": part}}


def _parts(arguments: str) -> tuple[str, str]:
    middle = len(arguments) // 2
    return arguments[:middle], arguments[middle:]


# --- completions and embeddings ------------------------------------------------------------------------


def text(answer: Answer) -> dict[str, Any]:
    """A whole legacy completion."""
    choices = [
        {"index": i, "text": "".join(one.pieces), "logprobs": None, "finish_reason": one.finish}
        for i, one in enumerate(answer.choices)
    ]
    return _whole(answer, "text_completion", choices)


def text_chunks(answer: Answer, step: Step, asked_usage: bool) -> Iterator[tuple[dict[str, Any], bool]]:
    def chunk(index: int, piece: str, finish: str | None = None) -> dict[str, Any]:
        choices = [{"index": index, "text": piece, "logprobs": None, "finish_reason": finish}]
        return {**_frame(answer, "text_completion"), "choices": choices}

    for i, one in enumerate(answer.choices):
        for piece in one.pieces:
            yield chunk(i, piece), True
        yield chunk(i, "", one.finish), False
    yield from _usage_chunks(answer, step, "text_completion", answer.usage if asked_usage else None)


def embeddings(body: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """A vector for each input, told apart by their length and place."""
    given = body.get("input")
    many = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    size = int(body.get("dimensions") or 4)
    as_base64 = body.get("encoding_format") == "base64"
    data = []
    for i, one in enumerate(many):
        vector = [float(i), float(len(one or ""))] + [0.5] * (size - 2)
        shown: Any = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if as_base64 else vector
        data.append({"object": "embedding", "index": i, "embedding": shown})
    tokens = prompt_tokens(body)
    counted = None if "no_usage" in step else {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": counted}


def _frame(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": answer.id, "object": kind, "created": CREATED, "model": answer.model}


def _whole(answer: Answer, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    shown = {} if answer.usage is None else {"usage": answer.usage}
    return {**_frame(answer, kind), "choices": choices, **shown}
