"""The text of proxy.yaml for people who may see everything but secrets. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.yaml.document import Document, Path, parse
from codellama_proxy.config.yaml.substitution import UnsetError
from codellama_proxy.core.masking import CREDENTIAL, REMOVED, Clean, Mask, without_keys

HIDDEN = "••••"
_ASSIGNED = re.compile(r"^(?P<name>[^:]*):(?P<space>\s+)(?P<value>\S.*)$")
MAX_LINE_CHARACTERS = 2000
"""Longer lines are hidden whole where names have to be searched for."""
_NAME = rf"(?<![\w-])[\w-]{{0,64}}?(?:{CREDENTIAL.pattern})[\w-]{{0,64}}+"
_NAMED = re.compile(rf"(?P<before>^.*?{_NAME}[\"']?\s*:\s+)(?P<value>(?![{{\[])\S.*)$", re.IGNORECASE)
_HEADERS = re.compile(r"(?P<before>^.*\bheaders[\"']?\s*:\s*)(?P<value>.*)$")
_IN_COMMENT = re.compile(
    rf"#[\s#-]*+{_NAME}\s*:\s+"
    r"(?P<value>(?:(?:Bearer|Basic)\s+)?[^\s#]+)\s*$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[\d.]+[a-z]*|\{|\[|true|false|null|~", re.IGNORECASE)
_REFERENCE = re.compile(r"\"?'?\$\{[A-Za-z_][A-Za-z0-9_]*\}'?\"?,?")


def masked_lines(text: bytes, clean: Clean, most: int = 5000) -> list[str]:
    """At most `most` lines, with `HIDDEN` for credentials that are written in them. `clean` masks known secrets."""
    whole = text.decode(errors="replace")
    try:
        found = [parse(text, lookup) for lookup in (_unset, _empty)]
    except ConfigError:
        lines = _by_names(whole.splitlines())
        literals: list[str] = []
    else:
        lines = whole.splitlines()
        literals = []
        for document in found:
            for path, value in _credentials(document.root, ()):
                literals.append(value)
                _hide(lines, document, path, value)
    lines = [_without_comment(line) for line in lines[:most]]
    other = Mask(literals)
    return [without_keys(clean(other(line))).replace(REMOVED, HIDDEN) for line in lines]


def _unset(name: str) -> str:
    """Defaults are written in the file, so they are seen."""
    raise UnsetError(name)


def _empty(_: str) -> str:
    """What is written beside variables remains."""
    return ""


def _credentials(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The texts that may be secrets: by their name, headers, and addresses with a password."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _credentials(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _credentials(inner, (*path, index))
    elif value is not None and str(value).strip() and _is_credential(path, str(value)):
        yield path, str(value)


def _is_credential(path: Path, value: str) -> bool:
    name = str(path[-1]) if path else ""
    in_headers = len(path) > 1 and path[-2] == "headers"
    with_password = "://" in value and "@" in value
    named = bool(CREDENTIAL.search(name)) and not _NUMBER.fullmatch(value)
    return in_headers or with_password or named


def _hide(lines: list[str], document: Document, path: Path, value: str) -> None:
    """Hides from the beginning of a value to the end of the line that has its last word."""
    line, column = document.position(path)
    if line > len(lines):
        return
    before, rest = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
    lines[line - 1] = before + HIDDEN
    last = value.rsplit(maxsplit=1)[-1]
    while last not in rest and line < len(lines) and _indent(lines[line]) > _indent(before):
        rest = lines[line]
        lines[line] = rest[: _indent(rest)] + HIDDEN
        line += 1


def _indent(line: str) -> int:
    """Of an empty line, a large number: it belongs to what is around it."""
    return len(line) - len(line.lstrip()) if line.strip() else sys.maxsize


def _by_names(lines: list[str]) -> list[str]:
    """The same for the lines of a text that is not YAML; what is indented below a credential or headers is hidden."""
    shown: list[str] = []
    owner: int | None = None
    for line in lines:
        if line.strip() and owner is not None and _indent(line) <= owner:
            owner = None
        if len(line) > MAX_LINE_CHARACTERS:
            shown.append(HIDDEN)
            continue
        is_comment = line.lstrip().startswith("#")
        found = None if is_comment else _HEADERS.match(line) or _NAMED.match(line)
        if owner is not None:
            shown.append(_hidden_below(line))
        elif found is None:
            shown.append(HIDDEN if "://" in line and "@" in line else line)
        else:
            owner = _indent(line)
            shown.append(line if _is_open(found["value"].strip()) else f"{found['before']}{HIDDEN}")
    return shown


def _hidden_below(line: str) -> str:
    found = _ASSIGNED.match(line)
    if found is not None and _is_open(found["value"]):
        return line
    return line[: _indent(line)] + HIDDEN if line.strip() else line


def _is_open(value: str) -> bool:
    """A number, nothing, or only the name of a variable."""
    return not value or bool(_NUMBER.fullmatch(value) or _REFERENCE.fullmatch(value))


def _without_comment(line: str) -> str:
    """A line whose comment has no credential, as one that was commented out."""
    start = line.find("#")
    if start < 0:
        return line
    if len(line) > MAX_LINE_CHARACTERS:
        return HIDDEN
    found = _IN_COMMENT.match(line, start)
    if found is None or _is_open(found["value"]):
        return line
    return line[: found.start("value")] + HIDDEN
