"""The fields of a key as a form has them: texts, and what is wrong with each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.money import usd_text
from codellama_proxy.core.types import Key
from codellama_proxy.store import key_fields
from codellama_proxy.store.key_fields import FIELDS, KeyChange

EXPIRIES = (("30d", "in 30 days"), ("90d", "in 90 days"), ("365d", "in a year"), ("", "never"))
KEEP = "keep"
"""The expiry stays as it is."""
DURATIONS = ("month", "week", "day", "hour")
DEFAULT_EXPIRY = "90d"
MAX_DIGITS = 20

# The names of fields in forms, and of the fields of keys.
_FIELDS = {
    "project": "key_alias",
    "name": "name",
    "expires": "duration",
    "budget": "max_budget",
    "per": "budget_duration",
    "rpm": "rpm_limit",
    "tpm": "tpm_limit",
    "parallel": "max_parallel_requests",
    "models": "models",
}


class Filled(NamedTuple):
    """A form that was sent."""

    texts: Mapping[str, str]
    problems: Mapping[str, str]
    """By the name of the field."""
    change: KeyChange | None
    """`None` if there are problems."""


def read(texts: Mapping[str, str]) -> Filled:
    """The change that a form describes; empty fields unset."""
    problems: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        text = texts.get(name, "")
        if (name == "expires" and text == KEEP) or (name == "per" and not texts.get("budget")):
            continue
        try:
            values[field] = _value(name, field, text)
        except ProxyError as error:
            problems[name] = _as_sentence(error.message.replace(f"'{field}' ", ""))
    if "per" in texts and not texts.get("budget"):
        values["budget_duration"] = None
    return Filled(texts, problems, None if problems else KeyChange(values))


def _as_sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _value(name: str, field: str, text: str) -> Any:
    if not text and name != "project":
        return None
    if name == "budget":
        return key_fields.written_money(field, text.strip())
    return FIELDS[field](field, _READ.get(name, _text)(text))


def _text(text: str) -> str:
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise ProxyError("invalid_value", "must be a whole number")
    return int(text)


def _names(text: str) -> list[str]:
    return [name for part in text.replace("\n", ",").split(",") if (name := part.strip())]


_READ: Mapping[str, Callable[[str], Any]] = {
    "rpm": _number,
    "tpm": _number,
    "parallel": _number,
    "models": _names,
}


def texts_of(key: Key) -> dict[str, str]:
    """The form that describes a key as it is."""
    own = key_fields.given_limits(key.limits)

    def number(field: str) -> str:
        return "" if own.get(field) is None else str(own[field])

    return {
        "project": key.project,
        "name": key.name or "",
        "expires": KEEP,
        "budget": usd_text(own.get("max_budget")) or "",
        "per": own.get("budget_duration") or "",
        "rpm": number("rpm_limit"),
        "tpm": number("tpm_limit"),
        "parallel": number("max_parallel_requests"),
        "models": ", ".join(key.models or ()),
    }
