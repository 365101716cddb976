"""Types of single values in proxy.yaml: read strictly and exactly, and never quoted in a message.

Each is a `Scalar`: a function from the YAML value to the typed value, and the JSON Schema of its input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from codellama_proxy.config.yaml.scalars import Quoted, plain
from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import Secret
from codellama_proxy.limits.windows import GRAMMAR

_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)"
_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(B|KB|MB|GB|KiB|MiB|GiB)"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}"


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """Used as `Annotated[type, Scalar(read, schema)]`; `read` refuses through `refuse`."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _: Any, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


def refuse(message: str) -> NoReturn:
    raise PydanticCustomError("value", "{message}", {"message": message})


def read_text(value: Any) -> str:
    if not isinstance(value, str):
        refuse("expected text; quote it if it looks like something else")
    return str(value)


def text(pattern: str, expected: str, limit: int = 128) -> Scalar:
    """Text that matches `pattern` from end to end."""

    def read(value: Any) -> str:
        found = read_text(value)
        if len(found) > limit or not re.fullmatch(pattern, found):
            refuse(f"expected {expected}")
        return found

    return Scalar(read, {"type": "string", "pattern": f"^(?:{pattern})$"})


NAME = text(_NAME, "a name of letters, digits and . _ : / @ + -")
PROJECT = text(r"[A-Za-z0-9._-]{1,64}", "a project name of letters, digits and . _ -")
UPSTREAM_NAME = text(r"\S(?:[^\x00-\x1f\x7f]*\S)?", "text on one line, without spaces around it", 512)
PATTERN = text(r"\S+", "a model name, or a pattern such as gpt-*")
WINDOW = text(GRAMMAR, "hour, day, week, month, or a length such as 12h or 30d")


def _flag(value: Any) -> bool:
    found = plain(value)
    if not isinstance(found, bool):
        refuse(f"expected true or false{_flag_hint(found)}")
    return found


def _flag_hint(found: Any) -> str:
    """YAML 1.1 had more spellings of them."""
    word = found.lower() if isinstance(found, str) else ""
    if word in ("true", "false"):
        return ", without quotes"
    return {"yes": "; write true", "on": "; write true", "no": "; write false", "off": "; write false"}.get(
        word, ""
    )


FLAG = Scalar(_flag, {"type": "boolean"})


def _number(value: Any) -> int | Decimal:
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, int | Decimal) or not Decimal(found).is_finite():
        refuse("expected a number")
    return found


def _within(value: int | Decimal, low: int | Decimal, high: int | Decimal) -> None:
    if not low <= value <= high:
        refuse(f"expected a value from {low} to {high}")


def whole(low: int, high: int) -> Scalar:
    """An integer, written as one."""

    def read(value: Any) -> int:
        found = plain(value)
        if isinstance(found, bool) or not isinstance(found, int):
            refuse("expected a whole number")
        _within(found, low, high)
        return found

    return Scalar(read, {"type": "integer", "minimum": low, "maximum": high})


def number(above: int, high: int) -> Scalar:
    """A number greater than `above`."""

    def read(value: Any) -> float:
        found = float(_number(value))
        if not above < found <= high:
            refuse(f"expected a number above {above} and up to {high}")
        return found

    return Scalar(read, {"type": "number", "exclusiveMinimum": above, "maximum": high})


def duration(low: str = "1ms", high: str = "1d") -> Scalar:
    """Seconds, or `250ms`, `30s`, `5m`, `1h`, `7d`."""
    least, most = (_seconds(bound) for bound in (low, high))

    def read(value: Any) -> float:
        found = plain(value)
        if isinstance(found, bool) or not isinstance(found, str | int | Decimal):
            refuse("expected a duration such as 250ms, 30s, 5m, 1h or 7d")
        seconds = _seconds(found) if isinstance(found, str) else _number(found)
        if not least <= seconds <= most:
            refuse(f"expected a duration from {low} to {high}")
        return float(seconds)

    return Scalar(
        read,
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{_DURATION}$"}]},
    )


def _seconds(written: str) -> Decimal:
    match = re.fullmatch(_DURATION, written)
    if not match:
        refuse("expected a duration such as 250ms, 30s, 5m, 1h or 7d")
    return Decimal(match[1]) * _UNITS[match[2]]


def size(low: int, high: int) -> Scalar:
    """Bytes, or `10MB`, `512KB`, `1MiB`."""

    def read(value: Any) -> int:
        found = plain(value)
        match = re.fullmatch(_SIZE, found) if isinstance(found, str) else None
        size = Decimal(match[1]) * _SIZES[match[2]] if match else found
        if isinstance(size, bool) or not isinstance(size, int | Decimal) or not Decimal(size).is_finite():
            refuse("expected a size such as 10MB, 512KB or 1MiB, or a number of bytes")
        if size != int(size):
            refuse("expected a whole number of bytes")
        _within(int(size), low, high)
        return int(size)

    return Scalar(
        read, {"anyOf": [{"type": "integer", "minimum": low}, {"type": "string", "pattern": f"^{_SIZE}$"}]}
    )


def usd(high: int) -> Scalar:
    """An amount in USD, read digit by digit into nano-USD."""

    def read(value: Any) -> int:
        found = _number(value)
        _within(found, 0, high)
        nanos = Decimal(found) * NANOS  # exponents of the file have at most 5 digits, so this is exact
        if nanos != int(nanos):
            refuse("expected at most 9 decimals")
        return int(nanos)

    return Scalar(read, {"type": "number", "minimum": 0, "maximum": high})


def _prompt(value: Any) -> str | bool:
    if plain(value) is False:
        return False
    if value is not None and not isinstance(value, str):
        refuse("expected text, or false for none")
    return str(value or "") if (value or "").strip() else ""


PROMPT = Scalar(_prompt, {"anyOf": [{"type": "string"}, {"const": False}, {"type": "null"}]})
"""A system prompt; `false` for none. An empty or blank one becomes an empty text, with a warning."""


def _secret(value: Any) -> Secret | None:
    if value is None:
        return None
    found = read_text(value).strip()
    if not re.fullmatch(r"[\x21-\x7e]*", found):
        refuse("expected a secret of printable characters without spaces; from a variable, write ${NAME}")
    return Secret(found) if found else None


SECRET = Scalar(_secret, {"anyOf": [{"type": "string"}, {"type": "null"}]})


def mapping(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        refuse("expected a mapping: names and their values, each as `name: value`")
    return value


def _json(value: Any) -> Any:
    """The value to pass on as JSON: decimals become floats."""
    found = str(value) if isinstance(value, Quoted) else plain(value)
    if isinstance(found, dict):
        return {name: _json(content) for name, content in found.items()}
    if isinstance(found, list):
        return [_json(item) for item in found]
    if isinstance(found, Decimal):
        if not found.is_finite() or abs(found) > Decimal("1e300"):
            refuse("a number in it is not one of JSON's")
        return float(found)
    if isinstance(found, int) and abs(found) >= 2**63:
        refuse("a number in it is too large")
    return found


JSON_MAP = Scalar(lambda value: _json(mapping(value)), {"type": "object"})
