"""The text of proxy.yaml for people who may see everything but secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.yaml.document import Document, Path, parse
from codellama_proxy.config.yaml.substitution import UnsetError
from codellama_proxy.core.masking import CREDENTIAL, REMOVED, Clean, Mask, without_keys

HIDDEN = "••••"
_ASSIGNED = re.compile(r"^(?P<name>[^:]*):(?P<space>\s+)(?P<value>\S.*)$")
_NUMBER = re.compile(r"[\d.]+[a-z]*|\{|\[|true|false|null|~", re.IGNORECASE)
_REFERENCE = re.compile(r"\"?'?\$\{[A-Za-z_][A-Za-z0-9_]*\}'?\"?")


def masked_lines(text: bytes, clean: Clean, most: int = 5000) -> list[str]:
    """At most `most` lines, with `HIDDEN` for credentials that are written in them. `clean` masks known secrets."""
    whole = text.decode(errors="replace")
    try:
        document = parse(text, _unset)
    except ConfigError:
        lines = [_by_name(line) for line in whole.splitlines()]
        literals: list[str] = []
    else:
        lines = whole.splitlines()
        literals = []
        for path, value in _credentials(document.root, ()):
            literals.append(value)
            _hide(lines, document, path)
    other = Mask(literals)
    return [without_keys(clean(other(line))).replace(REMOVED, HIDDEN) for line in lines[:most]]


def _unset(name: str) -> str:
    """Defaults are written in the file, so they are seen."""
    raise UnsetError(name)


def _credentials(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The texts that may be secrets: by their name, headers, and addresses with a password."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _credentials(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _credentials(inner, (*path, index))
    elif value is not None and _is_credential(path, str(value)):
        yield path, str(value)


def _is_credential(path: Path, value: str) -> bool:
    name = str(path[-1]) if path else ""
    in_headers = len(path) > 1 and path[-2] == "headers"
    with_password = "://" in value and "@" in value
    named = bool(CREDENTIAL.search(name)) and not _NUMBER.fullmatch(value)
    return in_headers or with_password or named


def _hide(lines: list[str], document: Document, path: Path) -> None:
    """Hides from the beginning of a value to the end of its line, unless it only refers to a variable."""
    line, column = document.position(path)
    if line > len(lines):
        return
    before, rest = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
    if path not in document.substituted or not _REFERENCE.match(rest):
        lines[line - 1] = before + HIDDEN


def _by_name(line: str) -> str:
    """The same for one line of a text that is not YAML."""
    found = _ASSIGNED.match(line)
    if found is None or not CREDENTIAL.search(found["name"]):
        return line
    if _NUMBER.fullmatch(found["value"]) or _REFERENCE.fullmatch(found["value"]):
        return line
    return f"{found['name']}:{found['space']}{HIDDEN}"
