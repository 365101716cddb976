"""One timer bounds the waits of all tasks, and leaves other cancellations alone."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.upstream.timeouts import MAX_REMOVED, Deadlines, TaskTimeout
from tests.support.virtual_time import VirtualTimeLoop, run


def test_a_timeout_does_not_affect_the_next_wait() -> None:
    async def use() -> list[str]:
        watch, seen = TaskTimeout(Deadlines()), []
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

    assert run(use()) == ["in time", "too late", "in time", "too late"]


def test_the_timeout_applies_to_each_wait_separately() -> None:
    async def use() -> None:
        watch = TaskTimeout(Deadlines())
        for _ in range(20):
            with watch.within(0.05):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # between two waits nothing is bounded
        watch.close()

    run(use())


def test_an_idle_timeout_counts_from_the_last_sign_of_life() -> None:
    async def use() -> None:
        watch = TaskTimeout(Deadlines())
        time = watch.loop.time
        started = time()

        async def live() -> None:
            for _ in range(5):
                await asyncio.sleep(0.05)
                watch.heard_at = time()
            await asyncio.sleep(60)

        with pytest.raises(TimeoutError), watch.idle(0.1, started + 60):
            await live()
        assert watch.heard_at - started > 0.2
        assert 0.09 < time() - watch.heard_at < 0.5
        with watch.within(0.5):  # no idle timeout any more
            await asyncio.sleep(0.2)
        watch.close()

    asyncio.run(use())


def test_signs_of_life_extend_no_wait_beyond_its_end() -> None:
    async def use() -> None:
        watch = TaskTimeout(Deadlines())
        time = watch.loop.time
        started = time()

        async def live() -> None:
            while True:
                watch.heard_at = time()
                await asyncio.sleep(0.01)

        with pytest.raises(TimeoutError), watch.idle(0.1, started + 0.2):
            await live()
        assert 0.19 < time() - started < 0.6
        watch.close()

    asyncio.run(use())


def test_signs_of_life_between_two_waits_bound_nothing() -> None:
    async def use() -> None:
        watch = TaskTimeout(Deadlines())
        with watch.idle(0.05, watch.loop.time() + 60):
            await asyncio.sleep(0.01)
        watch.heard_at = watch.loop.time()
        await asyncio.sleep(0.2)
        watch.close()

    run(use())


def test_the_last_wait_times_out_on_time() -> None:
    async def use() -> float:
        watch = TaskTimeout(Deadlines())
        with watch.within(0.05):
            await asyncio.sleep(0.03)
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(TimeoutError), watch.within(0.05):
            await asyncio.sleep(5)
        return loop.time() - started

    assert run(use()) == pytest.approx(0.05, abs=0.001)


def test_an_external_cancellation_is_not_a_timeout() -> None:
    async def use() -> None:
        watch = TaskTimeout(Deadlines())
        with watch.within(5):
            await asyncio.sleep(5)

    async def main() -> bool:
        task = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert run(main())


def test_a_simultaneous_cancellation_takes_precedence() -> None:
    async def main() -> bool:
        async def use() -> None:
            watch = TaskTimeout(Deadlines())
            with watch.within(0.01):
                await asyncio.sleep(5)

        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.call_later(0.01, task.cancel)
        loop.advance(0.05)  # both are due when the loop looks again
        await asyncio.wait({task})
        return task.cancelled()

    assert run(main())


def test_an_error_of_the_awaited_call_is_raised() -> None:
    async def use() -> None:
        watch = TaskTimeout(Deadlines())
        with watch.within(5):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(use())


SECONDS = st.integers(1, 40)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS), max_size=12))
def test_each_of_many_tasks_times_out_at_its_own_deadline(plans: list[tuple[int, int, int, int]]) -> None:
    """Each task waits twice: a time, at most another."""
    deadlines = Deadlines()

    async def use(plan: tuple[int, int, int, int]) -> list[float]:
        watch, loop, ends = TaskTimeout(deadlines), asyncio.get_running_loop(), []
        for wait, allowed in (plan[:2], plan[2:]):
            started = loop.time()
            try:
                with watch.within(allowed):
                    await asyncio.sleep(wait)
            except TimeoutError:
                assert allowed <= wait
            ends.append(loop.time() - started)
        watch.close()
        return ends

    async def main() -> list[list[float]]:
        return await asyncio.gather(*map(use, plans))

    expected = [[min(plan[:2]), min(plan[2:])] for plan in plans]
    assert [[pytest.approx(one, abs=0.001) for one in ends] for ends in run(main())] == expected


def test_deadlines_of_ended_waits_do_not_accumulate() -> None:
    async def use() -> None:
        deadlines = Deadlines()
        slow = [TaskTimeout(deadlines).within(600) for _ in range(10)]
        for _ in range(20 * MAX_REMOVED):
            TaskTimeout(deadlines).within(60).close()
            assert len(deadlines) <= 2 * MAX_REMOVED
        for one in slow:
            one.close()

    run(use())
