"""The events of the YAML parser to a tree of bounded size and depth, with positions and without aliases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

Position = tuple[int, int]
"""Line and column, from 1."""

MAX_VALUES = 100_000
MAX_DEPTH = 32


class UnreadableYamlError(Exception):
    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


class Node(NamedTuple):
    position: Position
    scalar: str | None = None
    quoted: bool = False
    items: tuple[Node, ...] | None = None
    pairs: tuple[tuple[Node, Node], ...] | None = None
    size: int = 1
    """Values in it, aliases expanded: known before anything is expanded."""


class Composer:
    """Events to one tree. An anchor is known only after its node ends, so no alias can reach itself."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        self.problems: list[tuple[Position, str]] = []

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise UnreadableYamlError(
                        _start(event), "only one document is allowed: nothing may follow `---`"
                    )
                root = self._node(next(self._events), 0)
        if root is None:
            raise UnreadableYamlError((1, 1), "the file is empty; it needs at least `models:`")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        position = _start(event)
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise UnreadableYamlError(position, "nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            self.problems.append(
                (position, "text that begins with ! must be in quotes; tags (`!...`) are not allowed")
            )
        node = self._content(event, position, depth)
        if max(node.size, self._nodes) > MAX_VALUES:
            raise UnreadableYamlError(position, "too many values")
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: Any, position: Position, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Node(position, scalar=event.value, quoted=event.style not in {None, ""})
        children = tuple(self._children(depth))
        size = 1 + sum(child.size for child in children)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(position, items=children, size=size)
        pairs = tuple(zip(children[::2], children[1::2], strict=True))
        return Node(position, pairs=pairs, size=size)

    def _children(self, depth: int) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, yaml.CollectionEndEvent):
                return
            yield self._node(event, depth + 1)

    def _alias(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise UnreadableYamlError(_start(event), "unknown anchor; text that begins with * must be quoted")
        return node


def _start(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1
