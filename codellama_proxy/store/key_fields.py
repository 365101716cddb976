"""The fields of a key: validation, and the JSON form. No I/O. Validators raise `ProxyError` 400."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from codellama_proxy.core.clock import iso
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.money import NANOS, usd
from codellama_proxy.core.snapshot import Json, Limits
from codellama_proxy.core.types import Key
from codellama_proxy.limits.windows import is_duration

DEFAULT_PROJECT = "default"
SECRET_START = "sk-"  # noqa: S105 - what every secret begins with
SECRET_LENGTH = len(SECRET_START) + 43
PREFIX_LENGTH = len(SECRET_START) + 8
"""Characters of a secret that are stored and shown."""
MAX_USD = 1_000_000_000
MAX_COUNT = 10**12
MAX_LIFETIME_SECONDS = 100 * 365 * 86400.0
MAX_METADATA_BYTES = 4096
MAX_MODELS = 256

_ALIAS = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DURATION = re.compile(r"([0-9]{1,10})([smhd])")
_AMOUNT = re.compile(r"[-+]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][-+]?[0-9]{1,3})?")
_MIN_EXPONENT = -9
"""Of a nano-USD in USD."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LIMIT_FIELDS = ("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget", "budget_duration")


class KeyChange(NamedTuple):
    """Validated values by field name, for creating or updating a key. `None` unsets a field."""

    values: Mapping[str, Any]


def alias(param: str, value: Any) -> str:
    """The name of a project."""
    if not _ALIAS.fullmatch(_string(param, value)):
        raise _invalid(param, "must be 1 to 64 letters, digits, '.', '_' or '-'")
    return str(value)


def name(param: str, value: Any) -> str:
    """A display name."""
    text = _string(param, value)
    if not 1 <= len(text) <= 128 or not text.isprintable():
        raise _invalid(param, "must be 1 to 128 printable characters")
    return text


def duration(param: str, value: Any) -> float:
    """Seconds from `30s`, `10m`, `1h` or `30d`."""
    found = _DURATION.fullmatch(_string(param, value))
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= MAX_LIFETIME_SECONDS:
        raise _invalid(param, "must be a duration like '30s', '10m', '1h' or '30d', at most 100 years")
    return seconds


def budget_duration(param: str, value: Any) -> str:
    """The length of a budget's window."""
    if not is_duration(_string(param, value)):
        raise _invalid(param, "must be 'hour', 'day', 'week', 'month', or a length like '24h' or '30d'")
    return str(value)


def count(param: str, value: Any) -> int:
    """A number of requests or tokens."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(param, "an integer")
    if not 0 <= value <= MAX_COUNT:
        raise _invalid(param, f"must be between 0 and {MAX_COUNT}")
    return value


def money(param: str, value: Any) -> int:
    """Nano-USD from a number of USD, converted exactly (decimal, not binary)."""
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        raise _wrong_type(param, "a number of USD")
    amount = Decimal(str(value))
    if not amount.is_finite() or not 0 <= amount <= MAX_USD:
        raise _invalid(param, f"must be between 0 and {MAX_USD} USD")
    # A product with a much smaller amount would be rounded to 0.
    if (amount and amount.adjusted() < _MIN_EXPONENT) or amount * NANOS != int(amount * NANOS):
        raise _invalid(param, "must have at most 9 decimal places")
    return int(amount * NANOS)


def written_money(param: str, text: str) -> int:
    """Nano-USD from an amount of USD in ASCII digits, as people type it."""
    if not _AMOUNT.fullmatch(text):
        raise _invalid(param, "must be an amount of USD such as 20 or 12.50")
    return money(param, Decimal(text))


def models(param: str, value: Any) -> tuple[str, ...] | None:
    """An allow-list of names and shell wildcards. An empty one means all, as in LiteLLM."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong_type(param, "a list of model names")
    if len(value) > MAX_MODELS or not all(1 <= len(item) <= 256 and item.isprintable() for item in value):
        raise _invalid(param, f"must be at most {MAX_MODELS} names of 1 to 256 printable characters")
    return tuple(value) or None


def metadata(param: str, value: Any) -> Json:
    """A flat JSON object."""
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object")
    if any(isinstance(item, dict | list) for item in value.values()):
        raise _invalid(param, "must be flat: no lists or objects in it")
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        raise _invalid(param, f"must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return value


FIELDS: Mapping[str, Callable[[str, Any], Any]] = {
    "key_alias": alias,
    "name": name,
    "duration": duration,
    "models": models,
    "max_budget": money,
    "budget_duration": budget_duration,
    "rpm_limit": count,
    "tpm_limit": count,
    "max_parallel_requests": count,
    "metadata": metadata,
}


def read(body: Json) -> KeyChange:
    """The fields in a request's body. Unknown fields are refused."""
    unknown = next((field[:64] for field in body if field not in FIELDS), None)
    if unknown is not None:
        raise ProxyError("unsupported_parameter", f"'{unknown}' is not a field of a key.", param=unknown)
    return KeyChange({field: _read(field, value) for field, value in body.items()})


def _read(field: str, value: Any) -> Any:
    if value is None and field != "key_alias":
        return None
    return FIELDS[field](field, value)


def apply(key: Key, change: KeyChange, now: float) -> Key:
    """The changed key. A lifetime (`duration`) starts at `now`."""
    values = change.values
    if "duration" in values:
        lifetime = values["duration"]
        key = replace(key, expires_at=None if lifetime is None else now + lifetime)
    return replace(
        key,
        project=values.get("key_alias", key.project),
        name=values.get("name", key.name),
        models=values.get("models", key.models),
        metadata=values.get("metadata", key.metadata) or {},
        limits=limits_of({**given_limits(key.limits), **values}),
    )


def limits_of(values: Mapping[str, Any]) -> Limits:
    """A key's own limits: a field that is absent or null is inherited from `limits.key`."""
    own = {field: values[field] for field in LIMIT_FIELDS if values.get(field) is not None}
    return Limits(**own, given=frozenset(own))


def given_limits(limits: Limits) -> dict[str, Any]:
    """Only the limits that were set on the key, for storing."""
    return {field: getattr(limits, field) for field in LIMIT_FIELDS if field in limits.given}


def shown(key: Key) -> dict[str, Any]:
    """A key in the format of HTTP and the command line: everything but its secret."""
    limits = key.limits
    return {
        "key_id": key.key_id,
        "key_alias": key.project,
        "project": key.project,
        "name": key.name,
        "prefix": key.prefix,
        "created_at": iso(key.created_at),
        "expires": None if key.expires_at is None else iso(key.expires_at),
        "blocked": key.blocked,
        "models": None if key.models is None else list(key.models),
        "max_budget": usd(limits.max_budget),
        "budget_duration": limits.budget_duration,
        "rpm_limit": limits.rpm_limit,
        "tpm_limit": limits.tpm_limit,
        "max_parallel_requests": limits.max_parallel_requests,
        "metadata": dict(key.metadata),
    }


def not_found() -> ProxyError:
    return ProxyError("not_found", "There is no such key.")


def _string(param: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(param, "a string")
    return value


def _wrong_type(param: str, wanted: str) -> ProxyError:
    return ProxyError("invalid_type", f"'{param}' must be {wanted}.", param=param)


def _invalid(param: str, rule: str) -> ProxyError:
    return ProxyError("invalid_value", f"'{param}' {rule}.", param=param)
