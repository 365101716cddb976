"""Finds the item that an event of a Responses stream is about.

Events name an item by an id and by its index in the output. Some upstreams send only one of them, the same index for
all items, or other ids at the end. So an item is known by every name that one of its events had, and an event without a
usable name belongs to the latest open item of its kind: items follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from codellama_proxy.providers.common.json_reading import count_at, text_at, wrong

MAX_ITEMS = 1024
"""Maximum number of items with text or calls in one answer."""

Kind = Literal["message", "reasoning", "call"]


class Names(NamedTuple):
    """How one event names an item."""

    ids: tuple[str, ...]
    position: int | None
    """Its index in the output."""


class Item(NamedTuple):
    """One item of the answer, as far as its events have been received."""

    kind: Kind
    call: int = 0
    """The number of the tool call, for items of this kind."""
    announced: bool = True
    """Whether an event began it; otherwise its pieces came first."""
    begun: frozenset[str] = frozenset()
    """The fields of a chat's delta of which pieces were received."""
    ended: bool = False


class Items(NamedTuple):
    """The items of a stream so far, in the order of their first events."""

    known: tuple[Item, ...] = ()
    named: Mapping[int | str, int] = {}
    """The place in `known` of the latest item with each index or id."""

    def added(self, names: Names, item: Item) -> tuple[Items, int]:
        """With one more item, and its place. Raises `AttemptError` if there are too many."""
        at = len(self.known)
        if at >= MAX_ITEMS:
            wrong("too_many_items")
        return Items((*self.known, item), {**self.named, **dict.fromkeys(_all(names), at)}), at

    def begin(self, at: int, field: str) -> Items:
        """With pieces of `field` received; the same object if there were some before."""
        item = self.known[at]
        return self if field in item.begun else self._with(at, item._replace(begun=item.begun | {field}))

    def end(self, at: int) -> Items:
        return self._with(at, self.known[at]._replace(ended=True))

    def _with(self, at: int, item: Item) -> Items:
        return self._replace(known=(*self.known[:at], item, *self.known[at + 1 :]))

    def of_announcement(self, names: Names, kind: Kind) -> int | None:
        """The item that is announced again, or of which pieces came first; `None` for a new item."""
        if (at := self._by_id(names, kind)) is not None:
            return at
        at = self._by_index(names, kind)
        if at is None or self.known[at].ended or (self.known[at].announced and names.ids):
            return None
        return at

    def of_piece(self, names: Names, kind: Kind) -> tuple[Items, int | None]:
        """The item that a piece belongs to, and the items with its names for it; `None` if no item fits."""
        at = self._by_id(names, kind)
        if at is None and (at := self._by_index(names, kind)) is not None and self.known[at].ended:
            at = None
        if at is None:
            # A name that was never announced is wrong if an item waits for its first piece.
            unused = any(name not in self.named for name in _all(names))
            at = self._latest(kind, lambda item: not (unused and item.begun))
        if at is None and kind == "call":
            at = self._latest(kind, lambda _: True)
        return (self, None) if at is None else (self._with_unused(names, at), at)

    def of_end(self, names: Names, kind: Kind) -> int | None:
        """The item that is complete; `None` if this is its first event."""
        if (at := self._by_id(names, kind)) is not None:
            return at
        at = self._by_index(names, kind)
        if at is not None and not (self.known[at].ended and names.ids):
            return at
        return self._latest(kind, lambda item: names.position is None or not item.announced)

    def of_output(self, output: Sequence[tuple[Names, Kind]]) -> list[int | None]:
        """The items of a whole output, given by their names and kinds; `None` where the stream had none.

        An item is found by its ids, else by its index, else by the order of those that are left.
        """
        found: list[int | None] = [None] * len(output)
        left = set(range(len(self.known)))
        for search in (self._by_id, self._by_index):
            for nth, (names, kind) in enumerate(output):
                if found[nth] is None and (at := search(names, kind)) in left:
                    found[nth] = at
                    left.discard(at)
        shown = [at for at in sorted(left) if self.known[at].ended or self.known[at].begun]
        rest = {kind: iter([at for at in shown if self.known[at].kind == kind]) for _, kind in output}
        return [
            next(rest[kind], None) if at is None else at for at, (_, kind) in zip(found, output, strict=True)
        ]

    def _by_id(self, names: Names, kind: Kind) -> int | None:
        return next((at for own in names.ids if (at := self._at(own, kind)) is not None), None)

    def _by_index(self, names: Names, kind: Kind) -> int | None:
        return None if names.position is None else self._at(names.position, kind)

    def _at(self, name: int | str, kind: Kind) -> int | None:
        at = self.named.get(name)
        return at if at is not None and self.known[at].kind == kind else None

    def _latest(self, kind: Kind, fits: Callable[[Item], bool]) -> int | None:
        """The latest open item that fits."""
        for at in range(len(self.known) - 1, -1, -1):
            item = self.known[at]
            if item.kind == kind and not item.ended and fits(item):
                return at
        return None

    def _with_unused(self, names: Names, at: int) -> Items:
        """With those names for the item that no item has; the same object if there are none."""
        unused = [name for name in _all(names) if name not in self.named]
        return self._replace(named={**self.named, **dict.fromkeys(unused, at)}) if unused else self


def names_of_piece(found: Mapping[str, Any]) -> Names:
    """The names of the item in an event with a piece of it."""
    own = text_at(found, "item_id")
    return Names((own,) if own else (), count_at(found, "output_index"))


def names_of(item: Mapping[str, Any], index: int | None) -> Names:
    """The names of a whole item; a call is known by the id of the call too."""
    return Names(tuple(own for name in ("id", "call_id") if (own := text_at(item, name))), index)


def _all(names: Names) -> tuple[int | str, ...]:
    return names.ids if names.position is None else (*names.ids, names.position)
