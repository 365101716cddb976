"""The fields of a request's body: JSON from strangers, and what is wrong for every provider.

Checks are shallow on purpose: types, and ranges where OpenAI's reference gives one that holds for everybody. The rest
is for the provider, who has the last word. Unknown fields are kept and travel on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS, MAX_TOKENS_FIELDS, Kind, Parameter

MAX_DEPTH = 64


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


def check_fields(body: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The body without its nulls (null means absent, as in OpenAI's API), every known field checked.

    Raises `ProxyError`: invalid_type, invalid_value or unsupported_parameter, each with `param`.
    """
    present = {name: value for name, value in body.items() if value is not None}
    for name, value in present.items():
        rule = parameters.get(name)
        if rule is not None:
            _check(name, value, rule)
        elif (known := folded(name)) != name and (
            known in parameters or known in CHAT_PARAMETERS or known in REFUSED
        ):
            # Some upstreams read names without regard to case: there it would say the same field once more.
            message = f"'{name[:64]}' is not a field of this API; did you mean '{known}'?"
            raise ProxyError("unsupported_parameter", message, param=name[:64])
        elif name in REFUSED:
            message = f"'{name}' is not supported: where requests go is decided by the proxy's configuration."
            raise ProxyError("unsupported_parameter", message, param=name)
    return present


def _check(name: str, value: Any, rule: Parameter) -> None:
    kind, bounds = rule.kind, rule.range
    # bool is an int in Python; in JSON it is not.
    wrong = not isinstance(value, _PYTHON[kind]) or (isinstance(value, bool) and kind != "boolean")
    if wrong and not (kind == "integer" and bounds is not None and _huge(value)):
        raise invalid_type(name, kind)
    if bounds is not None and isinstance(value, int | float) and not bounds[0] <= value <= bounds[1]:
        raise invalid_value(name, f"'{name}' must be between {bounds[0]} and {bounds[1]}.")
    if isinstance(value, list) and rule.max_items is not None and len(value) > rule.max_items:
        raise invalid_value(name, f"'{name}' may have at most {rule.max_items} items.")


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
