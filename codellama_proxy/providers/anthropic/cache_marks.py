"""Cache breakpoints in translated requests: at most four, on what stays the same from turn to turn.

A request without marks of its own gets them on the tools, on the system prompt and on the last two user turns. Each
request then reads what the one before it wrote. (platform.claude.com/docs/en/build-with-claude/prompt-caching)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAX_MARKS = 4
"""The API refuses more."""
MARKED_TURNS = 2
"""The last user turn, and the one whose mark the previous request had."""
MIN_PROMPT_BYTES = 3 * 1024
"""Smaller prompts get no marks: the API caches from 1 024 tokens on, for some models from 4 096."""
MARK: Mapping[str, str] = {"type": "ephemeral"}

Block = dict[str, Any]
Body = Mapping[str, Any]


def has_marks(body: Body) -> bool:
    """Whether the client set marks of its own, or asked for automatic ones."""
    return "cache_control" in body or any("cache_control" in block for block in _blocks(body))


def limited(body: Body) -> dict[str, Any]:
    """The body without its first marks if there are too many: the last ones cover the longest prefixes."""
    most = MAX_MARKS - ("cache_control" in body)
    marked = [block for block in _blocks(body) if "cache_control" in block]
    surplus = {id(block) for block in marked[: max(len(marked) - most, 0)]}
    return _mapped(body, surplus, None) if surplus else dict(body)


def with_marks(body: Body) -> dict[str, Any]:
    """The body with marks on its tools, system prompt and last user turns.

    The system prompt and all user turns become lists of blocks, so that a turn that loses its mark keeps its bytes.
    """
    body = {**body, "messages": [_listed(turn) for turn in body["messages"]]}
    if isinstance(body.get("system"), str):
        body["system"] = [{"type": "text", "text": body["system"]}]
    turns = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    ends = [
        blocks[-1] for blocks in (body.get("tools"), body.get("system"), *turns[-MARKED_TURNS:]) if blocks
    ]
    return _mapped(body, {id(block) for block in ends}, MARK)


def _listed(turn: Mapping[str, Any]) -> dict[str, Any]:
    content = turn["content"]
    if turn["role"] != "user" or not isinstance(content, str):
        return dict(turn)
    return {**turn, "content": [{"type": "text", "text": content}]}


def _blocks(body: Body) -> Iterator[Block]:
    """What may have a mark, in the order of the prompt: tools, system, messages."""
    for part in (body.get("tools"), body.get("system"), *(turn["content"] for turn in body["messages"])):
        if isinstance(part, list):
            yield from part


def _mapped(body: Body, chosen: set[int], mark: Mapping[str, str] | None) -> dict[str, Any]:
    """The body whose blocks with these identities have this mark, or none."""

    def one(block: Block) -> Block:
        if id(block) not in chosen:
            return block
        rest = {name: value for name, value in block.items() if name != "cache_control"}
        return rest if mark is None else {**rest, "cache_control": mark}

    def part(blocks: Any) -> Any:
        return [one(block) for block in blocks] if isinstance(blocks, list) else blocks

    found = {**body, "messages": [{**turn, "content": part(turn["content"])} for turn in body["messages"]]}
    return found | {name: part(body[name]) for name in ("tools", "system") if name in body}
