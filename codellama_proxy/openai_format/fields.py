"""The fields of a request's body: JSON from strangers, and what is wrong for every provider.

Checks are shallow on purpose: types, and ranges where OpenAI's reference gives one that holds for everybody. The rest
is for the provider, who has the last word. Unknown fields are kept and travel on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from codellama_proxy.core.errors import ProxyError

MAX_DEPTH = 64
MAX_INT = 2**31 - 1
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")


# --- bytes to JSON -------------------------------------------------------------------------------------------


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises `ProxyError`: invalid_json, invalid_encoding, json_too_deep, invalid_type."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(body, str(error)) from None
    # Fewer brackets than the limit cannot nest deeper than it: most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and deeper_than(found, MAX_DEPTH):
        raise ProxyError("json_too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    if not isinstance(found, dict):
        raise ProxyError("invalid_type", "The request body must be a JSON object.")
    return found


def _unreadable(body: bytes, reason: str) -> ProxyError:
    try:
        body.decode()
    except UnicodeDecodeError:
        return ProxyError("invalid_encoding", "The request body is not valid UTF-8.")
    if body.startswith(b"\xef\xbb\xbf"):
        return ProxyError("invalid_encoding", "The request body begins with a byte order mark. Remove it.")
    if "surrogate" in reason:
        return ProxyError("invalid_encoding", "The request body contains half of a surrogate pair.")
    if "depth" in reason:
        return ProxyError("json_too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    return ProxyError("invalid_json", f"The request body is not valid JSON: {reason}.")


def deeper_than(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested in it over more levels than that."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


# --- checks --------------------------------------------------------------------------------------------------

Kind = Literal[
    "boolean", "integer", "number", "string", "object", "array", "string or array", "string or object"
]

_PYTHON: Mapping[Kind, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "string or array": (str, list),
    "string or object": (str, dict),
}

# field -> its JSON type, and the range where OpenAI's reference gives one that holds for everybody.
FIELDS: Mapping[str, tuple[Kind, tuple[float, float] | None]] = {
    "model": ("string", None),
    "messages": ("array", None),
    "prompt": ("string", None),
    "stream": ("boolean", None),
    "stream_options": ("object", None),
    "max_tokens": ("integer", (1, MAX_INT)),
    "max_completion_tokens": ("integer", (1, MAX_INT)),
    "temperature": ("number", (0, 2)),
    "top_p": ("number", (0, 1)),
    "n": ("integer", (1, 128)),
    "stop": ("string or array", None),
    "presence_penalty": ("number", (-2, 2)),
    "frequency_penalty": ("number", (-2, 2)),
    "logit_bias": ("object", None),
    "logprobs": ("boolean", None),
    "top_logprobs": ("integer", (0, 20)),
    "seed": ("integer", (-(2**63), 2**63 - 1)),
    "tools": ("array", None),
    "tool_choice": ("string or object", None),
    "parallel_tool_calls": ("boolean", None),
    "functions": ("array", None),
    "function_call": ("string or object", None),
    "response_format": ("object", None),
    "reasoning_effort": ("string", None),
    "verbosity": ("string", None),
    "modalities": ("array", None),
    "audio": ("object", None),
    "prediction": ("object", None),
    "metadata": ("object", None),
    "store": ("boolean", None),
    "service_tier": ("string", None),
    "user": ("string", None),
    "safety_identifier": ("string", None),
    "prompt_cache_key": ("string", None),
    "prompt_cache_options": ("object", None),
    "prompt_cache_retention": ("string", None),
    "moderation": ("object", None),
    "web_search_options": ("object", None),
    "cache": ("object", None),
}

CHATS_ONLY = frozenset(
    {
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "reasoning_effort", "verbosity", "modalities", "audio", "prediction"),
        *("logprobs", "top_logprobs", "web_search_options"),
    }
)
"""Parameters that completions and embeddings do not have, or mean something else by."""

MAX_ITEMS: Mapping[str, int] = {"stop": 16, "tools": 1024, "functions": 1024, "messages": 20_000}

# Words that would be taken as "send it there, with this", or "without the guardrail": only proxy.yaml decides
# that. Some are other gateways'; `models`, `route` and `preset` are OpenRouter's. See also `privileged`.
REFUSED = (
    "api_base",
    "base_url",
    "api_key",
    "api_version",
    "organization",
    "extra_headers",
    "extra_body",
    "extra_query",
    "custom_llm_provider",
    "fallbacks",
    "guardrails",
    "models",
    "route",
    "preset",
)


def folded(name: str) -> str:
    """The name as a reader takes it that does not regard case, width or ligatures."""
    return unicodedata.normalize("NFKC", name).casefold()


def invalid_type(param: str, expected: str) -> ProxyError:
    article = "an" if expected[0] in "aeio" else "a"
    return ProxyError("invalid_type", f"'{param}' must be {article} {expected}.", param=param)


def invalid_value(param: str, message: str) -> ProxyError:
    return ProxyError("invalid_value", message, param=param)


def check_fields(
    body: Mapping[str, Any], fields: Mapping[str, tuple[Kind, tuple[float, float] | None]]
) -> dict[str, Any]:
    """The body without its nulls (null means absent, as in OpenAI's API), every known field checked."""
    present = {name: value for name, value in body.items() if value is not None}
    for name, value in present.items():
        rule = fields.get(name)
        if rule is not None:
            _check(name, value, *rule)
        elif (known := folded(name)) != name and (known in fields or known in FIELDS or known in REFUSED):
            # Some upstreams read names without regard to case: there it would say the same field once more.
            message = f"'{name[:64]}' is not a field of this API; did you mean '{known}'?"
            raise ProxyError("unsupported_parameter", message, param=name[:64])
        elif name in REFUSED:
            message = f"'{name}' is not supported: where requests go is decided by the proxy's configuration."
            raise ProxyError("unsupported_parameter", message, param=name)
    return present


def _check(name: str, value: Any, kind: Kind, bounds: tuple[float, float] | None) -> None:
    # bool is an int in Python; in JSON it is not.
    wrong = not isinstance(value, _PYTHON[kind]) or (isinstance(value, bool) and kind != "boolean")
    if wrong and not (kind == "integer" and bounds is not None and _huge(value)):
        raise invalid_type(name, kind)
    if bounds is not None and isinstance(value, int | float) and not bounds[0] <= value <= bounds[1]:
        raise invalid_value(name, f"'{name}' must be between {bounds[0]} and {bounds[1]}.")
    if isinstance(value, list) and len(value) > MAX_ITEMS.get(name, len(value)):
        raise invalid_value(name, f"'{name}' may have at most {MAX_ITEMS[name]} items.")


def _huge(value: Any) -> bool:
    """A whole number of more than 64 bits comes as a float: its size is what is wrong with it."""
    return isinstance(value, float) and abs(value) >= 2**63


def check_items(fields: Mapping[str, Any]) -> None:
    """The items of arrays that every provider would choke on."""
    stop = fields.get("stop")
    if isinstance(stop, list) and not all(isinstance(item, str) for item in stop):
        raise invalid_type("stop", "string or array of strings")
    for name in ("tools", "functions"):
        for index, item in enumerate(fields.get(name, ())):
            if not isinstance(item, dict):
                raise invalid_type(f"{name}[{index}]", "object")
    if MAX_TOKENS_FIELDS[0] in fields and MAX_TOKENS_FIELDS[1] in fields:
        message = "Give either 'max_tokens' or 'max_completion_tokens', not both."
        raise invalid_value(MAX_TOKENS_FIELDS[0], message)
