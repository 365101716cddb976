"""Normalizes tool calls for strict clients: numbered from 0, named once, arguments as one string.

Some upstreams give all calls the same index or id, or none; repeat names in every fragment; or omit ids and types. A
fragment continues the call with its id, else the latest call with its index, unless its name shows that it begins a
new call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.providers.common.json_reading import wrong

MAX_TOOL_CALLS = 128
"""Maximum number of tool calls of one choice."""
MAX_HELD_CHARACTERS = 1 << 14
"""Maximum length of arguments received before the name of their call."""


class ToolCall(NamedTuple):
    """A call whose fragments are still coming."""

    at: int | None
    """The upstream's index of the call."""
    id: str
    """The upstream's id; empty if it sent none."""
    name: str
    has_arguments: bool = False
    """Whether arguments have been received."""
    open: int | None = 0
    """Number of open brackets in the arguments; `None` once a fragment did not repeat the name."""
    quoted: bool = False
    """Whether the arguments so far end inside a string."""


class Held(NamedTuple):
    """The parts of a call received before its name."""

    id: str = ""
    arguments: str = ""


NO_HELD: Mapping[int | None, Held] = {}


class Calls(NamedTuple):
    """The calls of one choice of a stream so far."""

    begun: tuple[ToolCall, ...] = ()
    held: Mapping[int | None, Held] = NO_HELD
    """By the upstream's index."""


class Register:
    """The calls of one choice, found by the upstream's index or id, while a delta is processed."""

    def __init__(self, begun: Sequence[ToolCall]) -> None:
        self.calls: list[ToolCall] = []
        self.by_at: dict[int | None, int] = {}
        """Position of the latest call by index; `None`: the latest of all."""
        self.by_id: dict[tuple[str, int | None], int] = {}
        """Position of the latest call by id and index; index `None`: by id alone."""
        for call in begun:
            self.add(call)

    def add(self, call: ToolCall) -> None:
        self.by_at[call.at] = self.by_at[None] = len(self.calls)
        self.by_id[call.id, call.at] = self.by_id[call.id, None] = len(self.calls)
        self.calls.append(call)

    def named(self, call_id: str, at: int | None) -> int | None:
        """The position of the call with this id and index; `None` if there is none."""
        if (position := self.by_id.get((call_id, at))) is not None:
            return position
        position = self.by_id.get((call_id, None))
        return position if position is not None and self.calls[position].at is None else None


class Fragment(NamedTuple):
    """A parsed piece of a call. `function`: the object in `piece` with the name and the arguments."""

    piece: dict[str, Any]
    at: int | None
    id: str
    name: str
    arguments: str
    function: dict[str, Any]
    arguments_field: str
    """The field of `function` with the arguments."""


def numbered(calls: Calls, delta: dict[str, Any], own_id: str) -> tuple[Calls, bool]:
    """Normalizes `tool_calls` of a delta in position; returns the calls so far, and whether the delta was changed.

    `own_id`: the prefix of generated ids. Raises `AttemptError` for an invalid fragment.
    """
    fragments, changed = _fragments(delta["tool_calls"])
    register, held = Register(calls.begun), dict(calls.held)
    begun = register.calls
    touched: set[int] = set()
    kept: list[dict[str, Any]] = []
    for fragment in fragments:
        position = _position_of(register, fragment, touched)
        if position is None and not fragment.name:
            _hold(held, fragment)
            continue
        if position is None:
            position = len(begun)
            fixed = _begin(register, fragment, held.pop(fragment.at, Held()), own_id)
        else:
            fixed = _continue(begun, position, fragment)
        touched.add(position)
        kept.append(fragment.piece)
        changed |= (
            fixed or fragment.piece.get("index") != position or type(fragment.piece["index"]) is not int
        )
        fragment.piece["index"] = position
    if len(kept) != len(fragments) or not kept:
        changed = True
        delta["tool_calls"] = kept
        if not kept:
            del delta["tool_calls"]
    after = Calls(tuple(begun), held)
    return (after if after != calls else calls), changed


def _hold(held: dict[int | None, Held], fragment: Fragment) -> None:
    """Stores a fragment until its name arrives. Raises `AttemptError` beyond the limits."""
    earlier = held.get(fragment.at, Held())
    held[fragment.at] = Held(fragment.id or earlier.id, earlier.arguments + fragment.arguments)
    if len(held) > MAX_TOOL_CALLS or len(held[fragment.at].arguments) > MAX_HELD_CHARACTERS:
        wrong("call_without_name")


def ended(calls: Calls, delta: dict[str, Any], *, whole: bool) -> tuple[Calls, bool]:
    """Ends a choice: if it is `whole`, calls without arguments get `{}`, added to `delta`.

    Returns the calls, and whether the delta was changed. Raises `AttemptError` for arguments of a call without a name.
    """
    if any(one.arguments for one in calls.held.values()):
        wrong("call_without_name")
    without_arguments = [position for position, call in enumerate(calls.begun) if not call.has_arguments]
    if not without_arguments or not whole:
        return calls, False
    delta.setdefault("tool_calls", []).extend(
        {"index": position, "function": {"arguments": "{}"}} for position in without_arguments
    )
    return calls._replace(begun=tuple(call._replace(has_arguments=True) for call in calls.begun)), True


def whole(message: dict[str, Any], own_id: str) -> bool:
    """Normalizes the calls of a whole message in position; returns whether it was changed. Raises `AttemptError`."""
    if message.get("tool_calls") is None:
        return False
    fragments, changed = _fragments(message["tool_calls"])
    kept: list[dict[str, Any]] = []
    register = Register(())
    for fragment in fragments:
        if not fragment.name and fragment.arguments in ("", "{}"):
            continue  # a placeholder
        if not fragment.name:
            wrong("call_without_name")
        changed |= _begin(register, fragment, Held(), own_id)
        if not fragment.function[fragment.arguments_field]:
            fragment.function[fragment.arguments_field] = "{}"
            changed = True
        kept.append(fragment.piece)
    message["tool_calls"] = kept
    if not kept:
        del message["tool_calls"]
    return changed or len(kept) != len(fragments) or not kept


def _fragments(pieces: Any) -> tuple[list[Fragment], bool]:
    """The parsed fragments, and whether any was changed. Duplicate indexes are replaced by positions."""
    if not isinstance(pieces, list) or len(pieces) > MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    found = [_fragment(piece) for piece in pieces]
    changed = any(fixed for _, fixed in found)
    fragments = [one for one, _ in found]
    indexes = [one.at for one in fragments if one.at is not None]
    if len(set(indexes)) < len(indexes):
        fragments = [one._replace(at=position) for position, one in enumerate(fragments)]
    return fragments, changed


def _fragment(piece: Any) -> tuple[Fragment, bool]:
    """A parsed piece, and whether the type of a field was corrected. Raises `AttemptError`."""
    if not isinstance(piece, dict):
        wrong("bad_tool_calls")
    kind, arguments_field = (
        ("custom", "input") if isinstance(piece.get("custom"), dict) else ("function", "arguments")
    )
    changed = piece.get(kind) is None
    function = piece[kind] = {} if changed else piece[kind]
    if not isinstance(function, dict):
        wrong("bad_tool_calls")
    name, arguments, call_id = function.get("name"), function.get(arguments_field), piece.get("id")
    if isinstance(arguments, dict | list):  # should be a string of JSON
        arguments = function[arguments_field] = orjson.dumps(arguments).decode()
        changed = True
    if not isinstance(name, str | None) or not isinstance(arguments, str | None):
        wrong("bad_tool_calls")
    upstream_id = str(call_id) if isinstance(call_id, str | int) and not isinstance(call_id, bool) else ""
    return Fragment(
        piece, number(piece.get("index")), upstream_id, name or "", arguments or "", function, arguments_field
    ), changed


def number(value: object) -> int | None:
    """The index in a value of any type; `None` if it is invalid."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 31:
        return None
    return int(value) if value == int(value) else None


def _position_of(register: Register, fragment: Fragment, touched: set[int]) -> int | None:
    """The position of the call that a fragment continues; `None` if it begins a call or there is none."""
    begun = register.calls
    if fragment.id and (position := register.named(fragment.id, fragment.at)) is not None:
        return (
            None
            if _is_another(begun[position], fragment, repeats=True, touched=position in touched)
            else position
        )
    position = register.by_at.get(fragment.at)
    if position is None or not fragment.name:
        return position
    if fragment.id and begun[position].id:
        return None  # a new call with the index of an earlier one
    return (
        None
        if _is_another(begun[position], fragment, repeats=False, touched=position in touched)
        else position
    )


def _is_another(call: ToolCall, fragment: Fragment, *, repeats: bool, touched: bool) -> bool:
    """Whether the name of a fragment shows that it begins a new call; `repeats`: its id matches this call."""
    if not fragment.name:
        return False
    if touched or fragment.name != call.name:
        return True
    if call.open is None:
        return not repeats
    whole = call.has_arguments and call.open <= 0 and not call.quoted
    return whole and bool(fragment.arguments)


def _begin(register: Register, fragment: Fragment, held: Held, own_id: str) -> bool:
    """Adds a call; returns whether the piece was changed."""
    if len(register.calls) >= MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    piece, arguments_field = fragment.piece, fragment.arguments_field
    upstream_id = fragment.id or held.id
    arguments = held.arguments + fragment.arguments
    known = upstream_id and (upstream_id, None) not in register.by_id
    wanted = upstream_id if known else f"{own_id}_{len(register.calls)}"
    kind = "custom" if arguments_field == "input" else "function"
    changed = (
        piece.get("id") != wanted
        or piece.get("type") != kind
        or fragment.function.get(arguments_field) != arguments
    )
    piece["id"], piece["type"], fragment.function[arguments_field] = wanted, kind, arguments
    register.add(_with_arguments(ToolCall(fragment.at, upstream_id, fragment.name), arguments))
    return changed


def _continue(begun: list[ToolCall], position: int, fragment: Fragment) -> bool:
    """Adds a fragment to its call; returns whether the piece was changed."""
    call = begun[position]
    if not fragment.name and call.open is not None:
        call = call._replace(open=None, quoted=False)
    if not call.id and fragment.id:
        call = call._replace(id=fragment.id)  # later deltas may refer to it
    begun[position] = _with_arguments(call, fragment.arguments)
    changed = False
    for name in ("id", "type"):
        changed |= fragment.piece.pop(name, fragment) is not fragment
    changed |= fragment.function.pop("name", fragment) is not fragment
    if fragment.function.get(fragment.arguments_field) != fragment.arguments:
        fragment.function[fragment.arguments_field] = fragment.arguments
        changed = True
    return changed


_MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


def _with_arguments(call: ToolCall, arguments: str) -> ToolCall:
    if not arguments:
        return call
    if call.open is None:
        return call if call.has_arguments else call._replace(has_arguments=True)
    depth, quoted = call.open, call.quoted
    for mark in _MARKS.findall(arguments):
        if mark == '"':
            quoted = not quoted
        elif not quoted and len(mark) == 1:
            depth += 1 if mark in "{[" else -1
    return call._replace(has_arguments=True, open=depth, quoted=quoted)
