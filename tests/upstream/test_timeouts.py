"""One timer bounds many waits, and leaves other cancellations alone."""

import asyncio
import time

import pytest

from codellama_proxy.upstream.timeouts import TaskTimeout


def test_a_wait_that_takes_too_long_is_a_timeout_and_the_next_one_is_not() -> None:
    async def use() -> list[str]:
        watch, seen = TaskTimeout(), []
        for wait, allowed in ((0.0, 5.0), (5.0, 0.02), (0.03, 5.0), (5.0, 0.02)):
            try:
                with watch.within(allowed):
                    await asyncio.sleep(wait)
                seen.append("in time")
            except TimeoutError:
                seen.append("too late")
        watch.close()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return seen

    assert asyncio.run(use()) == ["in time", "too late", "in time", "too late"]


def test_many_short_waits_may_take_longer_together_than_each_of_them_may() -> None:
    async def use() -> None:
        watch = TaskTimeout()
        for _ in range(20):
            with watch.within(0.05):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # between two waits nothing is bounded
        watch.close()

    asyncio.run(use())


def test_the_timeout_of_the_last_wait_comes_when_it_is_due() -> None:
    async def use() -> float:
        watch = TaskTimeout()
        with watch.within(0.05):
            await asyncio.sleep(0.03)
        started = time.monotonic()
        with pytest.raises(TimeoutError), watch.within(0.05):
            await asyncio.sleep(5)
        return time.monotonic() - started

    assert 0.03 < asyncio.run(use()) < 1


def test_a_cancellation_from_outside_stays_one() -> None:
    async def use() -> None:
        watch = TaskTimeout()
        with watch.within(5):
            await asyncio.sleep(5)

    async def main() -> bool:
        task = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(main())


def test_a_cancellation_at_the_same_time_as_the_timeout_wins() -> None:
    async def main() -> bool:
        async def use() -> None:
            watch = TaskTimeout()
            with watch.within(0.01):
                await asyncio.sleep(5)

        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        time.sleep(0.05)  # both are due when the loop looks again
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(main())


def test_an_error_of_what_was_waited_for_is_that_error() -> None:
    async def use() -> None:
        watch = TaskTimeout()
        with watch.within(5):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(use())
