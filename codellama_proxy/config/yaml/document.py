"""YAML text to plain values and the line and column of each; what the values mean is not known here.

Scalars follow the YAML 1.2 core rules, so `no` and `1:30` are text; fractions stay exact (`Decimal`).
A number with leading zeros is text: it is octal to some readers and decimal to others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.yaml.parser_messages import in_plain_words
from codellama_proxy.config.yaml.substitution import Lookup, expand

Path = tuple[str | int, ...]
Position = tuple[int, int]

MAX_BYTES = 1024 * 1024
MAX_VALUES = 100_000
MAX_DEPTH = 32

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
END = "# <<< proxy.yaml"
"""A file that has the line for its beginning (`>>>`) and not this one was not written to its end."""
_BEGINS = re.compile(r"^# >>> proxy\.yaml\b", re.MULTILINE)
_ENDS = re.compile(rf"^{END}\b", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,60}|(0|[1-9][0-9]{0,59})(\.[0-9]{0,60})?)([eE][-+]?[0-9]{1,5})?")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), Decimal("Infinity")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), Decimal("-Infinity")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), Decimal("NaN")),
}


_FLAGS_1_1: Mapping[str, bool] = {
    form: meaning
    for word, meaning in (("yes", True), ("on", True), ("no", False), ("off", False))
    for form in (word, word.capitalize(), word.upper())
}


class Substituted(str):
    """A scalar that substitution made look like a number or boolean: text where text is wanted."""

    __slots__ = ()


class Quoted(Substituted):
    """One in quotes, which `{a: "${NAME}"}` cannot do without: text where anything may stand."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Document:
    root: Any
    keys: Mapping[Path, Position]
    """Where each mapping key stands."""
    values: Mapping[Path, Position]
    missing: Mapping[Path, str]
    """Values that need a variable or file which has nothing to give, and why; they are `None` in `root`."""
    substituted: Mapping[Path, tuple[str, ...]]
    """Values that were made by substitution, and what was put into them: never to be shown."""
    inputs: tuple[tuple[str, str], ...]
    """What was looked up, and found."""
    problems: tuple[tuple[Position, str], ...]
    source: str
    """The name of the file, as messages show it."""

    def position(self, path: Path) -> Position:
        """Of the value at `path`, or of the nearest thing around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))


def resolve(text: str) -> Any:
    """An unquoted scalar's value."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return Decimal(text)
    if re.fullmatch(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}", text):
        return int(text, 0)
    return text


def resolve_1_1(text: str) -> Any:
    """An unquoted scalar's value by YAML 1.1, which most other tools follow; dates stay text."""
    if text in _FLAGS_1_1:
        return _FLAGS_1_1[text]
    if re.fullmatch(r"[-+]?[0-9]{1,40}(_[0-9]{1,40}){1,20}", text):
        return int(text.replace("_", ""))
    return int(text, 8) if re.fullmatch(r"[-+]?0[0-7]{1,40}", text) else resolve(text)


def plain(value: Any) -> Any:
    """The value for a place that wants a number or a boolean."""
    return resolve(value) if isinstance(value, Substituted) else value


def parse(content: bytes, lookup: Lookup, *, source: str = "proxy.yaml", legacy: bool = False) -> Document:
    """Raises `ConfigError` for what is not YAML; what can be read past is in `problems`.

    `legacy`: by the rules of YAML 1.1, with its words for true and false, and merge keys.
    """
    try:
        composer = _Composer(yaml.parse(_decode(content), Loader=yaml.CSafeLoader))
        reader = _Reader(lookup, composer.problems, source, legacy)
        return reader.document(composer.document())
    except _UnreadableError as error:
        line, column = error.position
        raise ConfigError((Problem(line, column, error.message, source=source),)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError((Problem(*position, _in_words(error, content, position), source=source),)) from None
    except yaml.YAMLError:
        raise ConfigError((Problem(1, 1, f"not YAML: {in_plain_words(None)}", source=source),)) from None


class _UnreadableError(Exception):
    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


def _decode(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _UnreadableError((1, 1), "the file is larger than 1 MiB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _UnreadableError((1, 1), "the file is UTF-16; save it as UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _UnreadableError(_place(content[: error.start].decode()), "not UTF-8") from None
    text = text.removeprefix("\ufeff")
    if found := _FORBIDDEN.search(text):
        raise _UnreadableError(
            _place(text[: found.start()]), f"character U+{ord(found[0]):04X} is not allowed"
        )
    if _BEGINS.search(text) and not _ENDS.search(text):
        raise _UnreadableError(_place(text), f"the file is cut short: its last line should begin {END}")
    return text


def _place(before: str) -> Position:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _in_words(error: yaml.MarkedYAMLError, content: bytes, position: Position) -> str:
    """What is probably wrong, or the reason behind the usual mistakes; it never quotes the file."""
    lines = content.decode(errors="replace").splitlines()
    line = lines[position[0] - 1] if position[0] <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "not YAML: indented with a tab; use spaces"
    if line[: position[1]].endswith("${"):
        return 'not YAML: inside { } and [ ], "${...}" must be quoted'
    return f"not YAML: {in_plain_words(error.problem)}"


@dataclass(frozen=True, slots=True)
class _Node:
    position: Position
    scalar: str | None = None
    quoted: bool = False
    items: tuple[_Node, ...] | None = None
    pairs: tuple[tuple[_Node, _Node], ...] | None = None
    size: int = 1
    """Values in it, aliases expanded: known before anything is expanded."""


class _Composer:
    """Events to one tree. An anchor is known only after its node ends, so no alias can reach itself."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, _Node] = {}
        self._nodes = 0
        self.problems: list[tuple[Position, str]] = []

    def document(self) -> _Node:
        root: _Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise _UnreadableError(_start(event), "one document only: nothing may follow `---`")
                root = self._node(next(self._events), 0)
        if root is None:
            raise _UnreadableError((1, 1), "the file is empty; it needs at least `models:`")
        return root

    def _node(self, event: Any, depth: int) -> _Node:
        position = _start(event)
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise _UnreadableError(position, "nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            self.problems.append(
                (position, "text that begins with ! must be in quotes; tags (`!...`) are not allowed")
            )
        node = self._content(event, position, depth)
        if max(node.size, self._nodes) > MAX_VALUES:
            raise _UnreadableError(position, "too many values")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: Any, position: Position, depth: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            return _Node(position, scalar=event.value, quoted=event.style not in {None, ""})
        children = tuple(self._children(depth))
        size = 1 + sum(child.size for child in children)
        if isinstance(event, yaml.SequenceStartEvent):
            return _Node(position, items=children, size=size)
        pairs = tuple(zip(children[::2], children[1::2], strict=True))
        return _Node(position, pairs=pairs, size=size)

    def _children(self, depth: int) -> Iterator[_Node]:
        for event in self._events:
            if isinstance(event, yaml.CollectionEndEvent):
                return
            yield self._node(event, depth + 1)

    def _alias(self, event: Any) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise _UnreadableError(_start(event), "unknown anchor; text that begins with * must be quoted")
        return node


def _start(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


@dataclass(slots=True)
class _Reader:
    """The tree to plain values, writing down where everything stood."""

    lookup: Lookup
    problems: list[tuple[Position, str]]
    source: str
    legacy: bool = False
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    missing: dict[Path, str] = field(default_factory=dict)
    substituted: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    inputs: list[tuple[str, str]] = field(default_factory=list)

    def document(self, root: _Node) -> Document:
        value = self._value(root, ())
        return Document(
            value,
            self.keys,
            self.values,
            self.missing,
            self.substituted,
            tuple(self.inputs),
            tuple(self.problems),
            self.source,
        )

    def _value(self, node: _Node, path: Path) -> Any:
        self.values[path] = node.position
        if node.items is not None:
            return [self._value(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self._mapping(node.pairs, path)
        return self._scalar(node, path)

    def _mapping(self, pairs: tuple[tuple[_Node, _Node], ...], path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in self._merged(pairs) if self.legacy else pairs:
            if key.scalar is None:
                self.problems.append((key.position, "a key must be text: a list or a mapping cannot be one"))
            elif key.scalar in found:
                first = self.keys[*path, key.scalar][0]
                self.problems.append(
                    (key.position, f'duplicate key "{key.scalar}"; the first is on line {first}')
                )
            else:
                self.keys[*path, key.scalar] = key.position
                found[key.scalar] = self._value(value, (*path, key.scalar))
        return found

    def _merged(self, pairs: tuple[tuple[_Node, _Node], ...]) -> tuple[tuple[_Node, _Node], ...]:
        """With what `<<` brings in; of a key that is there twice, the last counts."""
        found: dict[str | None, tuple[_Node, _Node]] = {}
        sources: list[_Node] = []
        for key, value in pairs:
            if key.scalar == "<<" and not key.quoted:
                sources += value.items if value.items is not None else (value,)
            else:
                found[key.scalar] = (key, value)
        for source in sources:
            if source.pairs is None:
                self.problems.append((source.position, "<<: there is no mapping here to merge"))
            for key, value in self._merged(source.pairs or ()):
                found.setdefault(key.scalar, (key, value))
        return tuple(found.values())

    def _scalar(self, node: _Node, path: Path) -> Any:
        text = node.scalar or ""
        if "${" not in text:
            return text if node.quoted else (resolve_1_1 if self.legacy else resolve)(text)
        expanded = expand(text, self.lookup)
        self.substituted[path] = tuple(value for _, value in expanded.inputs)
        self.inputs.extend(expanded.inputs)
        if expanded.malformed:
            self.problems.append((node.position, _SUBSTITUTIONS))
        if expanded.unset or expanded.malformed:
            self.missing[path] = expanded.unset or ""
            return None
        value = resolve(expanded.text)
        if isinstance(value, str) or (node.quoted and value is None):
            return expanded.text
        if value is None:
            return None
        return Quoted(expanded.text) if node.quoted else Substituted(expanded.text)


_SUBSTITUTIONS = "write ${NAME}, ${NAME:-default} or ${file:/path}; $${ for a plain ${"
