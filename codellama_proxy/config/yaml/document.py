"""YAML text to plain values and the line and column of each, whatever the values mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.yaml.parser_messages import plain_message
from codellama_proxy.config.yaml.scalars import Quoted, Substituted, resolve, resolve_1_1
from codellama_proxy.config.yaml.substitution import Lookup, expand
from codellama_proxy.config.yaml.tree import Composer, Node, Position, UnreadableYamlError

Path = tuple[str | int, ...]

MAX_BYTES = 1024 * 1024

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
END = "# <<< proxy.yaml"
"""A file that has the line for its beginning (`>>>`) and not this one was not written to its end."""
_BEGINS = re.compile(r"^# >>> proxy\.yaml\b", re.MULTILINE)
_ENDS = re.compile(rf"^{END}\b", re.MULTILINE)


class Document(NamedTuple):
    root: Any
    keys: Mapping[Path, Position]
    """The position of each mapping key."""
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


def parse(content: bytes, lookup: Lookup, *, source: str = "proxy.yaml", legacy: bool = False) -> Document:
    """Raises `ConfigError` for what is not YAML; what can be read past is in `problems`.

    `legacy`: by the rules of YAML 1.1, with its words for true and false, and merge keys.
    """
    try:
        composer = Composer(yaml.parse(_decode(content), Loader=yaml.CSafeLoader))
        reader = _Reader(lookup, composer.problems, source, legacy)
        return reader.document(composer.document())
    except UnreadableYamlError as error:
        line, column = error.position
        raise ConfigError((Problem(line, column, error.message, source=source),)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError(
            (Problem(*position, _error_message(error, content, position), source=source),)
        ) from None
    except yaml.YAMLError:
        raise ConfigError((Problem(1, 1, f"not YAML: {plain_message(None)}", source=source),)) from None


def _decode(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise UnreadableYamlError((1, 1), "the file is larger than 1 MiB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableYamlError((1, 1), "the file is UTF-16; save it as UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UnreadableYamlError(_place(content[: error.start].decode()), "not UTF-8") from None
    text = text.removeprefix("\ufeff")
    if found := _FORBIDDEN.search(text):
        raise UnreadableYamlError(
            _place(text[: found.start()]), f"character U+{ord(found[0]):04X} is not allowed"
        )
    if _BEGINS.search(text) and not _ENDS.search(text):
        raise UnreadableYamlError(_place(text), f"the file is cut short: its last line should begin {END}")
    return text


def _place(before: str) -> Position:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _error_message(error: yaml.MarkedYAMLError, content: bytes, position: Position) -> str:
    """What is probably wrong, or the reason behind the usual mistakes; it never quotes the file."""
    lines = content.decode(errors="replace").splitlines()
    line = lines[position[0] - 1] if position[0] <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "not YAML: indented with a tab; use spaces"
    if line[: position[1]].endswith("${"):
        return 'not YAML: inside { } and [ ], "${...}" must be quoted'
    return f"not YAML: {plain_message(error.problem)}"


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

    def document(self, root: Node) -> Document:
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

    def _value(self, node: Node, path: Path) -> Any:
        self.values[path] = node.position
        if node.items is not None:
            return [self._value(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self._mapping(node.pairs, path)
        return self._scalar(node, path)

    def _mapping(self, pairs: tuple[tuple[Node, Node], ...], path: Path) -> dict[str, Any]:
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

    def _merged(self, pairs: tuple[tuple[Node, Node], ...]) -> tuple[tuple[Node, Node], ...]:
        """With what `<<` brings in; of a key that is there twice, the last counts."""
        found: dict[str | None, tuple[Node, Node]] = {}
        sources: list[Node] = []
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

    def _scalar(self, node: Node, path: Path) -> Any:
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
