"""Bodies that are still coming: bounded in number and bytes, for each and for all, and counted down to nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Limits, Project
from codellama_proxy.core.types import Key
from codellama_proxy.gateway.arrivals import SPARE_REQUESTS, ArrivalRoom, Arrivals, room_of
from tests.support.builders import snapshot

ROOM = ArrivalRoom(requests=4, own_requests=3, size=100)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 60), max_size=3), st.booleans()),
        max_size=12,
    )
)
def test_the_bounds_are_never_exceeded_and_all_space_is_released(
    steps: list[tuple[str, list[int], bool]],
) -> None:
    arrivals = Arrivals()
    open_: list[tuple[contextlib.ExitStack, str, list[int]]] = []
    for who, pieces, ends in steps:
        stack, sizes = contextlib.ExitStack(), [0]
        try:
            grew: Callable[[int], None] = stack.enter_context(arrivals.one(who, ROOM))
            for piece in pieces:
                grew(piece)
                sizes.append(piece)
        except ProxyError:
            stack.close()
            continue
        open_.append((stack, who, sizes))
        assert len(open_) <= ROOM.requests
        assert sum(sum(sizes) for _, _, sizes in open_) <= ROOM.size
        for one in "abc":
            own = [sizes for _, who, sizes in open_ if who == one]
            assert len(own) <= ROOM.own_requests
            assert sum(map(sum, own)) <= ROOM.own_size
        if ends:
            open_.pop(0)[0].close()
    for stack, _, _ in open_:
        stack.close()
    for _ in range(3):  # all of the room is there again
        with arrivals.one("a", ROOM) as grew:
            grew(ROOM.own_size)


@pytest.mark.parametrize(
    ("of_all", "of_project", "of_key", "own"),
    [
        (None, None, None, 500),
        (None, None, 1, 1 + SPARE_REQUESTS),
        (None, 2, 7, 2 + SPARE_REQUESTS),
        (0, None, None, SPARE_REQUESTS),
        (9, 30, None, 9 + SPARE_REQUESTS),
        (None, None, 5000, 500),
    ],
)
def test_the_number_of_arriving_bodies_of_a_key_follows_its_limits(
    of_all: int | None, of_project: int | None, of_key: int | None, own: int
) -> None:
    limits = {**snapshot().limits, "global": Limits(max_parallel_requests=of_all)}
    project = Project("web", limits=Limits(max_parallel_requests=of_project))
    own_limits = Limits(max_parallel_requests=of_key, given=frozenset({"max_parallel_requests"}))
    room = room_of(snapshot(limits=limits), project, Key("key_1", "web", limits=own_limits))
    assert (room.own_requests, room.limited) == (own, own < 500)
