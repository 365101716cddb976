"""`${NAME}`, `${NAME:-default}` and `${file:/path}` inside one scalar; `$${` is a literal `${`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)\}|\$\{")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)

MAX_FILE_BYTES = 64 * 1024
"""Bytes of a `${file:}`: secrets are short, and a wrong path must not fill the memory."""

Lookup = Callable[[str], str]
"""Maps the content of `${...}` (without a default) to its value; raises `UnsetError` with the reason."""


class UnsetError(Exception):
    """A variable or file that has nothing to give, and why."""


class Expanded(NamedTuple):
    text: str
    inputs: tuple[tuple[str, str], ...] = ()
    """What was looked up, and the value that was put in."""
    unset: str | None = None
    """Why a reference has no value."""
    malformed: bool = False


def expand(text: str, lookup: Lookup) -> Expanded:
    """Replace every reference once: what is put in is not searched again."""
    parts: list[str] = []
    inputs: list[tuple[str, str]] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[1]:
            parts.append("${")
            continue
        reference = _split(match[2])
        if reference is None:
            return Expanded("", malformed=True)
        try:
            value = _value(*reference, lookup)
        except UnsetError as unset:
            return Expanded("", tuple(inputs), unset=str(unset))
        parts.append(value)
        inputs.append((reference[0], value))
    return Expanded("".join([*parts, text[end:]]), tuple(inputs))


def _split(inside: str | None) -> tuple[str, str | None] | None:
    """`NAME:-default` or `file:/path` as (what to look up, default); `None` when it is neither."""
    if inside is None or "${" in inside:
        return None
    if inside.startswith("file:"):
        return (inside, None) if len(inside) > len("file:") else None
    match = _NAME.fullmatch(inside)
    return (match[1], match[2]) if match else None


def _value(name: str, default: str | None, lookup: Lookup) -> str:
    try:
        return lookup(name)
    except UnsetError:
        if default is None:
            raise
        return default


def lookup_in(environ: Mapping[str, str]) -> Lookup:
    """Look variables up in `environ` and `file:` on the disk; empty counts as unset."""

    def lookup(name: str) -> str:
        if name.startswith("file:"):
            return _read_secret(name.removeprefix("file:"))
        value = environ.get(name)
        if not value:
            raise UnsetError(f"{name} is not set")
        if not value.isascii() and not _is_utf8(value):
            raise UnsetError(f"{name} is not UTF-8")
        return value

    return lookup


def _is_utf8(value: str) -> bool:
    """Bytes of the environment that are not UTF-8 arrive as surrogates, which no JSON can carry."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _read_secret(path: str) -> str:
    try:
        value = read_regular(Path(path), MAX_FILE_BYTES).decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise UnsetError(f"file {path} cannot be read: {reason(error)}") from None
    if not value:
        raise UnsetError(f"file {path} is empty")
    return value


def read_regular(path: Path, limit: int) -> bytes:
    """A whole regular file of at most `limit` bytes; never waits for a pipe, never reads more than it may."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, so that what is checked is what is read
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit // 1024} KiB")
    return content


def reason(error: OSError | ValueError) -> str:
    """An error in words, without the file's content."""
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    if isinstance(error, OSError):
        return error.strerror or "unreadable"
    return str(error)


def references(text: bytes) -> tuple[str, ...]:
    """The names a file may look up, comments included: what a watcher compares besides the text."""
    found = (_split(match[2]) for match in _REFERENCE.finditer(text.decode(errors="replace")))
    return tuple(dict.fromkeys(reference[0] for reference in found if reference))
