"""Parses a request body and checks its fields against the parameter tables.

Checks are shallow on purpose: types, and ranges that hold for every provider. The provider checks the rest. Unknown
fields are kept and sent on.
"""

from __future__ import annotations

import unicodedata
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.parameters import (
    CHAT_PARAMETERS,
    MAX_TOKENS_FIELDS,
    TYPES,
    Parameter,
    Parameters,
)

MAX_DEPTH = 64
MAX_VALUES = 200_000
"""JSON values in a body: more take longer to work through than one request may."""
MAX_CONTAINERS = 100_000
"""Objects and arrays among them."""
MAX_COUNTED_BYTES = 512
"""Counting the brackets of a longer document takes longer than walking through what it holds."""
MAX_FIELDS = 512
"""Fields of a body."""
MAX_FIELD_NAME = 256
"""Characters of a field's name."""


# --- bytes to JSON -------------------------------------------------------------------------------------------


def parse_json(body: bytes, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises `ProxyError`: invalid_json, invalid_encoding, json_too_deep, invalid_type, invalid_value for too many values.
    """
    if len(body) > MAX_CONTAINERS and _has_more_values(body, max_values):
        raise _too_complex(body, max_values)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(body, str(error)) from None
    if may_be_deeper(body, MAX_DEPTH) and deeper_than(found, MAX_DEPTH):
        raise ProxyError("json_too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    if not isinstance(found, dict):
        raise ProxyError("invalid_type", "The request body must be a JSON object.")
    return found


def _has_more_values(body: bytes, max_values: int) -> bool:
    """Whether it holds too many values or strings to be parsed, by its punctuation: that of texts does not count."""
    if _too_much_punctuation(body, max_values):
        unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
        if unescaped.count(b'"') > 2 * MAX_VALUES:
            return True
        return _too_much_punctuation(b"".join(unescaped.split(b'"')[::2]), max_values)
    return False


def _too_complex(body: bytes, max_values: int) -> ProxyError:
    try:
        orjson.loads(body[:MAX_CONTAINERS])
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):
            return _unreadable(body[:MAX_CONTAINERS], str(error))
    message = f"The request holds more than {max_values} JSON values or {MAX_CONTAINERS} objects and arrays."
    return ProxyError("invalid_value", message)


def _too_much_punctuation(text: bytes, max_values: int) -> bool:
    containers = text.count(b"{") + text.count(b"[")
    return containers > MAX_CONTAINERS or containers + text.count(b",") > max_values


def _unreadable(body: bytes, reason: str) -> ProxyError:
    try:
        body.decode()
    except UnicodeDecodeError:
        return ProxyError("invalid_encoding", "The request body is not valid UTF-8.")
    if body.startswith(BOM_UTF8):
        return ProxyError("invalid_encoding", "The request body begins with a byte order mark. Remove it.")
    if "surrogate" in reason:
        return ProxyError("invalid_encoding", "The request body contains half of a surrogate pair.")
    if "depth" in reason:
        return ProxyError("json_too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    return ProxyError("invalid_json", f"The request body is not valid JSON: {reason}.")


def may_be_deeper(data: bytes, limit: int) -> bool:
    """Whether a JSON document can nest deeper than `limit`; most short ones have too few bytes or brackets."""
    if len(data) > MAX_COUNTED_BYTES:
        return True
    return len(data) > 2 * limit and data.count(b"{") + data.count(b"[") > limit


_CONTAINERS = frozenset({dict, list})


def deeper_than(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` levels deep."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return False
    return True


# --- checks --------------------------------------------------------------------------------------------------

_NUMBERS = (int, float)
_NO_TYPES: frozenset[type] = frozenset()

# Fields that other gateways read as routing or guardrail settings, which only proxy.yaml may set; `models`, `route` and
# `preset` are OpenRouter's. See also `policy.privileged_fields`.
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
    """The name without differences of case, width or ligatures (NFKC, casefolded)."""
    return unicodedata.normalize("NFKC", name).casefold()


def invalid_type(param: str, expected: str) -> ProxyError:
    article = "an" if expected[0] in "aeio" else "a"
    return ProxyError("invalid_type", f"'{param}' must be {article} {expected}.", param=param)


def invalid_value(param: str, message: str) -> ProxyError:
    return ProxyError("invalid_value", message, param=param)


def check_fields(body: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """The body without its nulls (null means absent, as in OpenAI's API), every known field checked.

    Raises `ProxyError`: invalid_type, invalid_value or unsupported_parameter, each with `param`.
    """
    if len(body) > MAX_FIELDS:
        raise ProxyError("invalid_value", f"The request has more than {MAX_FIELDS} fields.")
    present = {name: value for name, value in body.items() if value is not None}
    unbounded = parameters.unbounded
    for name, value in present.items():
        if type(value) not in unbounded.get(name, _NO_TYPES):
            _check(name, value, parameters)
    return present


def _check(name: str, value: Any, parameters: Parameters) -> None:
    rule = parameters.get(name)
    if rule is None:
        _check_unknown(name, parameters)
    elif type(value) is not list or rule.kind != "array" or len(value) > (rule.max_items or 0):
        _check_value(name, value, rule)


def _check_unknown(name: str, parameters: Parameters) -> None:
    """Raises `ProxyError` for a name that is not one of `parameters` and must not be sent on."""
    if len(name) > MAX_FIELD_NAME:
        message = f"A field's name has more than {MAX_FIELD_NAME} characters."
        raise ProxyError("unsupported_parameter", message, param=name[:64])
    if (known := folded(name)) != name and (
        known in parameters or known in CHAT_PARAMETERS or known in REFUSED
    ):
        # Some upstreams match names case-insensitively: there it would set the same field twice.
        message = f"'{name[:64]}' is not a field of this API; did you mean '{known}'?"
        raise ProxyError("unsupported_parameter", message, param=name[:64])
    if name in REFUSED:
        message = f"'{name}' is not supported: where requests go is decided by the proxy's configuration."
        raise ProxyError("unsupported_parameter", message, param=name)


def _check_value(name: str, value: Any, rule: Parameter) -> None:
    kind, bounds = rule.kind, rule.range
    # bool is an int in Python; in JSON it is not.
    wrong = not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    if wrong and not (kind == "integer" and bounds is not None and _huge(value)):
        raise invalid_type(name, kind)
    if bounds is not None and isinstance(value, _NUMBERS) and not bounds[0] <= value <= bounds[1]:
        raise invalid_value(name, f"'{name}' must be between {bounds[0]} and {bounds[1]}.")
    if isinstance(value, list) and rule.max_items is not None and len(value) > rule.max_items:
        raise invalid_value(name, f"'{name}' may have at most {rule.max_items} items.")


def _huge(value: Any) -> bool:
    """Whether it is an integer of more than 64 bits, which orjson parses as a float: out of range, not a wrong type."""
    return isinstance(value, float) and abs(value) >= 2**63


_CHECKED_ITEMS = frozenset({"stop", "tools", "functions", MAX_TOKENS_FIELDS[1]})
"""Without any of these fields `check_items` has nothing to check."""


def check_items(fields: Mapping[str, Any]) -> None:
    """Checks items of arrays, and that only one of the two bounds on tokens is set. Raises `ProxyError`."""
    if _CHECKED_ITEMS.isdisjoint(fields):  # nearly all
        return
    stop = fields.get("stop")
    if isinstance(stop, list) and not all(isinstance(item, str) for item in stop):
        raise invalid_type("stop", "string or array of strings")
    for name in ("tools", "functions"):
        if name in fields:
            for index, item in enumerate(fields[name]):
                if not isinstance(item, dict):
                    raise invalid_type(f"{name}[{index}]", "object")
    if MAX_TOKENS_FIELDS[0] in fields and MAX_TOKENS_FIELDS[1] in fields:
        message = "Give either 'max_tokens' or 'max_completion_tokens', not both."
        raise invalid_value(MAX_TOKENS_FIELDS[0], message)
