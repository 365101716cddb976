"""The record of requests that begin and end, for pages that show them."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.gateway.progress import MAX_RECENT, WATCH_SECONDS, Progress, Since


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def noted(progress: Progress, *request_ids: str) -> None:
    """As the gateway does."""
    for request_id in request_ids:
        if progress.watched:
            progress.note(request_id)


def test_nothing_is_recorded_while_nobody_watches() -> None:
    progress = Progress(Clock())
    noted(progress, "a")
    mark = progress.watch()
    assert progress.since(mark) == Since((), mark)


@given(st.lists(st.sampled_from("abcdef"), max_size=20), st.integers(0, 20))
def test_what_happened_after_a_mark_is_told_once_in_the_order_of_the_last_change(
    before_and_after: list[str], split: int
) -> None:
    progress = Progress(Clock())
    progress.watch()
    before, after = before_and_after[:split], before_and_after[split:]
    noted(progress, *before)
    mark = progress.watch()
    noted(progress, *after)
    found = progress.since(mark)
    assert found is not None
    last = {request_id: at for at, request_id in enumerate(after)}
    assert list(found.request_ids) == sorted(last, key=lambda request_id: last[request_id])
    assert progress.since(found.mark) == Since((), found.mark)


def test_a_mark_from_too_long_ago_or_from_elsewhere_is_unknown() -> None:
    progress = Progress(Clock())
    first = progress.watch()
    noted(progress, *map(str, range(MAX_RECENT)))
    assert len((progress.since(first) or Since((), "")).request_ids) == MAX_RECENT
    noted(progress, "one more")
    assert progress.since(first) is None
    assert progress.since("") is None
    assert Progress(Clock()).since(first) is None


def test_recording_ends_some_time_after_the_last_page() -> None:
    clock = Clock()
    progress = Progress(clock)
    mark = progress.watch()
    clock.now = WATCH_SECONDS / 2
    noted(progress, "a")
    assert progress.since(mark) is not None
    clock.now += WATCH_SECONDS + 1
    noted(progress, "b")
    assert not progress.watched
    assert progress.watch() != mark
    assert progress.since(mark) is None


def test_waiting_ends_with_the_next_change() -> None:
    async def use() -> list[str]:
        progress = Progress(Clock())
        progress.watch()
        told: list[str] = []

        async def wait(name: str) -> None:
            await progress.wait(10)
            told.append(name)

        async with asyncio.TaskGroup() as tasks:
            for name in ("one", "other"):
                tasks.create_task(wait(name))
            await asyncio.sleep(0)
            noted(progress, "a")
        await progress.wait(0.01)
        return told

    assert sorted(asyncio.run(use())) == ["one", "other"]
