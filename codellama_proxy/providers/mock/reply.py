"""What the mock answers: a text, JSON for a `response_format`, or a call of a tool that the request forces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import orjson

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.openai_format.request import several
from codellama_proxy.providers.mock.instances import instance

HELLO_WORLD = """Here is a function that prints "Hello, world!":

```python
def hello_world() -> None:
    print("Hello, world!")
```
"""
NOT_A_MODEL = (
    "I am codellama-proxy's built-in mock model: the proxy works, but no real model is connected. "
    "Set a provider's key (for example TOGETHER_API_KEY) to get answers from one.\n"
)
MAX_ANSWER_TOKENS = 200_000
"""Over all choices, alternatives of `top_logprobs` included."""
MAX_TOKEN_CHARACTERS = 16

Finish = Literal["stop", "length", "tool_calls", "function_call"]


class Call(NamedTuple):
    """A forced call of a tool. `legacy`: of OpenAI's `functions`."""

    kind: Literal["function", "custom", "legacy"]
    name: str
    arguments: str


class Reply(NamedTuple):
    """Every choice of an answer. `tokens`: of the text, or of the call's arguments."""

    tokens: list[str]
    finish: Finish
    call: Call | None = None


def reply_to(request: Mapping[str, Any], mock: Mock, choices: int) -> Reply:
    """The reply to a request, within its `max_tokens`; `stop` applies to texts."""
    call = forced_call(request)
    finish: Finish = "stop"
    if call is not None:
        text = call.arguments
        finish = "function_call" if call.kind == "legacy" else "tool_calls"
    else:
        text = _before_stop(_text_for(request, mock), request.get("stop"))
    tokens = tokens_of(text)
    most = _max_tokens(request, choices)
    return Reply(tokens, finish, call) if len(tokens) <= most else Reply(tokens[:most], "length", call)


def texts_of(request: Mapping[str, Any]) -> list[str]:
    """The user's texts in any form; token ids are ignored."""
    if "messages" in request:
        return [text_of(message) for message in request["messages"] if message["role"] == "user"]
    return [one if isinstance(one, str) else "" for one in several(request.get("prompt"))]


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def tokens_of(text: str) -> list[str]:
    """Words with the space after them, long ones in pieces, as an approximation of tokens."""
    return re.findall(rf"\S{{1,{MAX_TOKEN_CHARACTERS}}}\s*|\s+", text)


def forced_call(request: Mapping[str, Any]) -> Call | None:
    """The call that `tool_choice` or `function_call` forces, if the request has that tool."""
    function = request.get("function_call")
    if isinstance(function, dict):
        found = _named(request.get("functions"), None, function.get("name"))
        return None if found is None else _function_call(found, "legacy")
    kind, name = _forced(request.get("tool_choice"))
    if kind is None:
        return None
    tool = _named(request.get("tools"), kind, name)
    return None if tool is None else _tool_call(tool)


def call_id(seed: bytes, choice: int) -> str:
    """An id that differs between choices, and between requests by their `seed`."""
    return "call_" + hashlib.sha256(b"%d %b" % (choice, seed)).hexdigest()[:24]


def _forced(choice: Any) -> tuple[str | None, Any]:
    """The kind of tool and its name; `any` and `None` for any tool, `None` and `None` if no call is forced."""
    if choice == "required":
        return "any", None
    if not isinstance(choice, dict):
        return None, None
    kind = choice.get("type")
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools")
        if not isinstance(allowed, dict) or allowed.get("mode") != "required":
            return None, None
        first = next((one for one in several(allowed.get("tools")) if isinstance(one, dict)), {})
        return _forced(first)
    if kind not in ("function", "custom"):
        return None, None
    return kind, _part(choice, kind).get("name")


def _named(tools: Any, kind: str | None, name: Any) -> Mapping[str, Any] | None:
    """The first tool of this kind and name; a function itself without a kind."""
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        if kind == "any" and tool.get("type") in ("function", "custom"):
            return tool
        if kind not in (None, tool.get("type")):
            continue
        if (tool if kind is None else _part(tool, kind)).get("name") == name:
            return tool
    return None


def _tool_call(tool: Mapping[str, Any]) -> Call | None:
    kind = tool["type"]
    if kind == "custom":
        return Call("custom", str(_part(tool, kind).get("name")), NOT_A_MODEL)
    return _function_call(_part(tool, kind), "function")


def _function_call(function: Mapping[str, Any], kind: Literal["function", "legacy"]) -> Call:
    found = instance(function.get("parameters", {"type": "object"}))
    arguments = found if isinstance(found, dict) else {}
    return Call(kind, str(function.get("name")), orjson.dumps(arguments).decode())


def _part(tool: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    part = tool.get(kind)
    return part if isinstance(part, dict) else {}


def _text_for(request: Mapping[str, Any], mock: Mock) -> str:
    form = request.get("response_format")
    if isinstance(form, dict) and "messages" in request:
        if form.get("type") == "json_object":
            return "{}"
        if form.get("type") == "json_schema":
            schema = _part(form, "json_schema").get("schema", {"type": "object"})
            return orjson.dumps(instance(schema)).decode()
    if mock.reply is not None:
        return mock.reply
    prompt = " ".join(texts_of(request)).lower()
    return HELLO_WORLD + "\n" + NOT_A_MODEL if "hello" in prompt and "world" in prompt else NOT_A_MODEL


def _before_stop(text: str, stop: Any) -> str:
    """The text before the first of the stop sequences."""
    ends = [text.find(one) for one in several(stop) if isinstance(one, str) and one]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def _max_tokens(request: Mapping[str, Any], choices: int) -> int:
    """The tokens of a choice: what the client wants, within what is sent in bounded time."""
    wanted = (request.get(name) for name in ("max_tokens", "max_completion_tokens"))
    work = choices * (1 + alternatives(request))
    return min(
        [MAX_ANSWER_TOKENS // max(work, 1), *(one for one in wanted if isinstance(one, int) and one >= 0)]
    )


def alternatives(request: Mapping[str, Any]) -> int:
    """The number of alternatives to each token that the request wants."""
    wanted = request.get("top_logprobs") if "messages" in request else request.get("logprobs")
    return min(wanted, 20) if isinstance(wanted, int) and wanted > 0 else 0
