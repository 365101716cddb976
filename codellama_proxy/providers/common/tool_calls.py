"""Tool calls as the strictest clients want them: numbered from 0, named once, with one text of arguments each.

Upstreams give every call of an answer the same index, none, or the same id; they repeat names in every fragment, or
leave out ids and types. A fragment continues the call that its id names, else the latest of its index, and begins
one where its name says that it is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.providers.common.json_reading import wrong

MAX_TOOL_CALLS = 128
"""Of one choice."""
MAX_HELD_CHARACTERS = 1 << 14
"""Characters of arguments that come before their call's name."""


class ToolCall(NamedTuple):
    """A call whose fragments are still coming."""

    at: int | None
    """The upstream's own number for it."""
    id: str
    """The upstream's; empty where it has not told any."""
    name: str
    said: bool = False
    """It has some arguments."""
    open: int | None = 0
    """How many brackets of its arguments are open; unknown once a fragment did not repeat the name."""
    quoted: bool = False
    """Those arguments end inside of a string."""


class Held(NamedTuple):
    """What came of a call before its name."""

    id: str = ""
    arguments: str = ""


NO_HELD: Mapping[int | None, Held] = {}


class Calls(NamedTuple):
    """The calls of one choice of a stream, so far."""

    begun: tuple[ToolCall, ...] = ()
    held: Mapping[int | None, Held] = NO_HELD
    """By the upstream's index."""


class Register:
    """The calls of one choice while a delta is read, found by what upstreams know them by."""

    def __init__(self, begun: Sequence[ToolCall]) -> None:
        self.calls: list[ToolCall] = []
        self.by_at: dict[int | None, int] = {}
        """The latest call of an index; under `None`, of all."""
        self.by_id: dict[tuple[str, int | None], int] = {}
        """The latest call of an id and an index; under `None`, of an id."""
        for call in begun:
            self.add(call)

    def add(self, call: ToolCall) -> None:
        self.by_at[call.at] = self.by_at[None] = len(self.calls)
        self.by_id[call.id, call.at] = self.by_id[call.id, None] = len(self.calls)
        self.calls.append(call)

    def named(self, call_id: str, at: int | None) -> int | None:
        """Which call an id means that comes with this index."""
        if (place := self.by_id.get((call_id, at))) is not None:
            return place
        place = self.by_id.get((call_id, None))
        return place if place is not None and self.calls[place].at is None else None


class Fragment(NamedTuple):
    """A piece of a call, read. `function` is the object in `piece` that has the name and the arguments."""

    piece: dict[str, Any]
    at: int | None
    id: str
    name: str
    arguments: str
    function: dict[str, Any]
    words: str
    """The field of `function` that has the arguments."""


def numbered(calls: Calls, delta: dict[str, Any], own_id: str) -> tuple[Calls, bool]:
    """Puts in order the `tool_calls` of a delta. The calls after it, and whether anything had to be changed.

    `own_id` begins the ids that we give. Raises `AttemptError` for what is no fragment.
    """
    fragments, changed = _fragments(delta["tool_calls"])
    register, held = Register(calls.begun), dict(calls.held)
    begun = register.calls
    touched: set[int] = set()
    kept: list[dict[str, Any]] = []
    for fragment in fragments:
        place = _place(register, fragment, touched)
        if place is None and not fragment.name:
            _hold(held, fragment)
            continue
        if place is None:
            place = len(begun)
            fixed = _begin(register, fragment, held.pop(fragment.at, Held()), own_id)
        else:
            fixed = _go_on(begun, place, fragment)
        touched.add(place)
        kept.append(fragment.piece)
        changed |= fixed or fragment.piece.get("index") != place or type(fragment.piece["index"]) is not int
        fragment.piece["index"] = place
    if len(kept) != len(fragments) or not kept:
        changed = True
        delta["tool_calls"] = kept
        if not kept:
            del delta["tool_calls"]
    after = Calls(tuple(begun), held)
    return (after if after != calls else calls), changed


def _hold(held: dict[int | None, Held], fragment: Fragment) -> None:
    """Waits for the name. Raises `AttemptError` for more than calls without names can have said."""
    earlier = held.get(fragment.at, Held())
    held[fragment.at] = Held(fragment.id or earlier.id, earlier.arguments + fragment.arguments)
    if len(held) > MAX_TOOL_CALLS or len(held[fragment.at].arguments) > MAX_HELD_CHARACTERS:
        wrong("call_without_name")


def ended(calls: Calls, delta: dict[str, Any], *, whole: bool) -> tuple[Calls, bool]:
    """The end of a choice: where it is `whole`, calls without arguments get an empty object.

    Whether anything had to be added. Raises `AttemptError` for arguments of a call that never got its name.
    """
    if any(one.arguments for one in calls.held.values()):
        wrong("call_without_name")
    silent = [place for place, call in enumerate(calls.begun) if not call.said]
    if not silent or not whole:
        return calls, False
    delta.setdefault("tool_calls", []).extend(
        {"index": place, "function": {"arguments": "{}"}} for place in silent
    )
    return calls._replace(begun=tuple(call._replace(said=True) for call in calls.begun)), True


def whole(message: dict[str, Any], own_id: str) -> bool:
    """Puts in order the calls of a whole message. Whether anything had to be changed. Raises `AttemptError`."""
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
        if not fragment.function[fragment.words]:
            fragment.function[fragment.words] = "{}"
            changed = True
        kept.append(fragment.piece)
    message["tool_calls"] = kept
    if not kept:
        del message["tool_calls"]
    return changed or len(kept) != len(fragments) or not kept


def _fragments(pieces: Any) -> tuple[list[Fragment], bool]:
    """Several pieces of one index are told apart by their order."""
    if not isinstance(pieces, list) or len(pieces) > MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    found = [_fragment(piece) for piece in pieces]
    changed = any(fixed for _, fixed in found)
    fragments = [one for one, _ in found]
    indexes = [one.at for one in fragments if one.at is not None]
    if len(set(indexes)) < len(indexes):
        fragments = [one._replace(at=place) for place, one in enumerate(fragments)]
    return fragments, changed


def _fragment(piece: Any) -> tuple[Fragment, bool]:
    """A piece, and whether a field of it had to be made the kind it should be."""
    if not isinstance(piece, dict):
        wrong("bad_tool_calls")
    kind, words = ("custom", "input") if isinstance(piece.get("custom"), dict) else ("function", "arguments")
    changed = piece.get(kind) is None
    function = piece[kind] = {} if changed else piece[kind]
    if not isinstance(function, dict):
        wrong("bad_tool_calls")
    name, said, call_id = function.get("name"), function.get(words), piece.get("id")
    if isinstance(said, dict | list):  # a string of JSON is what it should be
        said = function[words] = orjson.dumps(said).decode()
        changed = True
    if not isinstance(name, str | None) or not isinstance(said, str | None):
        wrong("bad_tool_calls")
    told = str(call_id) if isinstance(call_id, str | int) and not isinstance(call_id, bool) else ""
    return Fragment(piece, number(piece.get("index")), told, name or "", said or "", function, words), changed


def number(value: object) -> int | None:
    """An index; `None` for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 31:
        return None
    return int(value) if value == int(value) else None


def _place(register: Register, fragment: Fragment, touched: set[int]) -> int | None:
    """Which call it continues; `None` if it begins one, or if there is none yet."""
    begun = register.calls
    if fragment.id and (place := register.named(fragment.id, fragment.at)) is not None:
        return None if _is_another(begun[place], fragment, repeats=True, touched=place in touched) else place
    place = register.by_at.get(fragment.at)
    if place is None or not fragment.name:
        return place
    if fragment.id and begun[place].id:
        return None  # a call of its own under the number of an earlier one
    return None if _is_another(begun[place], fragment, repeats=False, touched=place in touched) else place


def _is_another(call: ToolCall, fragment: Fragment, *, repeats: bool, touched: bool) -> bool:
    """Whether the name of a fragment says that it is not part of this call; `repeats`: its id says that it is."""
    if not fragment.name:
        return False
    if touched or fragment.name != call.name:
        return True
    if call.open is None:
        return not repeats
    whole = call.said and call.open <= 0 and not call.quoted
    return whole and bool(fragment.arguments)


def _begin(register: Register, fragment: Fragment, held: Held, own_id: str) -> bool:
    """Adds a call. Whether the piece had to be changed."""
    if len(register.calls) >= MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    piece, words = fragment.piece, fragment.words
    told = fragment.id or held.id
    said = held.arguments + fragment.arguments
    known = told and (told, None) not in register.by_id
    wanted = told if known else f"{own_id}_{len(register.calls)}"
    kind = "custom" if words == "input" else "function"
    changed = piece.get("id") != wanted or piece.get("type") != kind or fragment.function.get(words) != said
    piece["id"], piece["type"], fragment.function[words] = wanted, kind, said
    register.add(_with_arguments(ToolCall(fragment.at, told, fragment.name), said))
    return changed


def _go_on(begun: list[ToolCall], place: int, fragment: Fragment) -> bool:
    """Notes what a fragment adds to its call. Whether the piece had to be changed."""
    call = begun[place]
    if not fragment.name and call.open is not None:
        call = call._replace(open=None, quoted=False)
    if not call.id and fragment.id:
        call = call._replace(id=fragment.id)  # known by it from the next delta on
    begun[place] = _with_arguments(call, fragment.arguments)
    changed = False
    for name in ("id", "type"):
        changed |= fragment.piece.pop(name, fragment) is not fragment
    changed |= fragment.function.pop("name", fragment) is not fragment
    if fragment.function.get(fragment.words) != fragment.arguments:
        fragment.function[fragment.words] = fragment.arguments
        changed = True
    return changed


_MARKS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


def _with_arguments(call: ToolCall, said: str) -> ToolCall:
    if not said:
        return call
    if call.open is None:
        return call if call.said else call._replace(said=True)
    depth, quoted = call.open, call.quoted
    for mark in _MARKS.findall(said):
        if mark == '"':
            quoted = not quoted
        elif not quoted and len(mark) == 1:
            depth += 1 if mark in "{[" else -1
    return call._replace(said=True, open=depth, quoted=quoted)
