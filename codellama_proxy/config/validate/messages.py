"""Messages for pydantic's errors: the position, what was expected, and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from codellama_proxy.config.problems import Problem, did_you_mean
from codellama_proxy.config.schema import File
from codellama_proxy.config.validate import guesses
from codellama_proxy.config.validate.finding import Finding
from codellama_proxy.config.yaml.document import Document, Path

A_MAPPING = "expected a mapping: keys and their values, each as `key: value`"
A_LIST = "expected a list: items on lines of their own that begin with `- `, or in [ ]"


def described(path: Path) -> str:
    """`models[2].price.input`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def _short(key: str) -> str:
    """At most 64 characters; the empty key in quotes."""
    if not key:
        return '""'
    return key if len(key) <= 64 else f"{key[:61]}..."


def problem_at(document: Document, finding: Finding, *, at_key: bool = False) -> Problem:
    """The finding with its line and column: those of the value, or of its key."""
    path = finding.path
    place = document.keys[path] if at_key else document.position(path)
    message = f"{described(path)}: {finding.message}" if path and finding.with_path else finding.message
    return Problem(*place, message, finding.severity, document.source)


def invalid_values(document: Document, error: ValidationError) -> Iterator[Problem]:
    """A problem for each refused value."""
    for path, message in faults(document, error):
        at_key = path in document.keys and message.startswith("unknown key")
        yield problem_at(document, Finding(path, message), at_key=at_key)


def faults(document: Document, error: ValidationError) -> Iterator[tuple[Path, str]]:
    """The path of each refused value, and the reason."""
    for detail in error.errors(include_url=False):
        path = _path(detail)
        if path not in document.missing:  # else there is no value to judge, and that has its own message
            unknown = detail["type"] == "extra_forbidden"
            yield path, _unknown(path) if unknown else _message(detail, path)


def _path(detail: ErrorDetails) -> Path:
    """pydantic marks a bad mapping key with `[key]`."""
    loc = detail["loc"]
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


def _message(detail: ErrorDetails, path: Path) -> str:
    match detail["type"]:
        case "missing":
            return "required"
        case "value":
            return detail["msg"]
        case "literal_error":
            expected = re.findall(r"'([^']+)'", detail["ctx"]["expected"])
            return f"expected {_either(expected)}{_guess(detail['input'], expected, path)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{A_MAPPING}{_off(detail['input'], path)}"
        case "tuple_type":
            return A_LIST
    return "not valid"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _guess(value: Any, known: Sequence[str], path: Path) -> str:
    """Shows one of `known`, never the value."""
    if not isinstance(value, str):
        return ""
    meant = guesses.of_provider(value) if path[-1:] == ("provider",) else None
    return f'; did you mean "{meant}"?' if meant else did_you_mean(value, known)


def _off(value: Any, path: Path) -> str:
    """The message for a section written as a scalar."""
    if path == ("auth",):
        return "; to let anybody call, write {required: false}"
    word = value if isinstance(value, str) else ""
    return "; for none write false" if word.lower() in ("off", "no", "none", "disabled") else ""


def _unknown(path: Path) -> str:
    key, known = str(path[-1]), _keys_at(path[:-1])
    if key == "<<":
        return "unknown key: merge keys are not YAML 1.2; write the keys out"
    meant = guesses.of_key(_section_at(path[:-1]).__name__, key)
    if meant is not None:
        word = re.fullmatch(r"write (\w+)", meant)
        hint = f'did you mean "{word[1]}"?' if word else meant
        return f'unknown key "{_short(key)}"; {hint}'
    hint = did_you_mean(key, known) or f"; known here: {', '.join(known)}"
    return f'unknown key "{_short(key)}"{hint}'


def _keys_at(path: Path) -> list[str]:
    return [field.alias or name for name, field in _section_at(path).model_fields.items()]


def _section_at(path: Path) -> type[BaseModel]:
    """The class of the section at `path`."""
    section: Any = File
    for part in path:
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = next(f.annotation for n, f in section.model_fields.items() if (f.alias or n) == part)
        else:
            section = section_in(section)
    found: type[BaseModel] = section_in(section)
    return found


def section_in(annotation: Any) -> Any:
    """The section that `X`, `X | None`, `tuple[X, ...]` or `dict[..., X]` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (section_in(argument) for argument in get_args(annotation))
    return next((found for found in inner if found is not None), None)
