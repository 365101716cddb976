"""What a large proxy.yaml costs: the time of `check`, and how long a reload keeps the event loop from its work.

    python bench/configuration.py [MODELS]

The loop's longest pause is measured beside it, without a reload, for machines differ.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from codellama_proxy.config.check_report import inspect
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.providers.registry import IMPLEMENTED

ROUNDS = 5
ENTRY = """\
- name: model-{i}
  provider: openai
  model: gpt-4.1
  api_key: ${{KEY}}
  weight: {weight}
  timeouts: {{connect: 5s, first_token: 20s}}
  params: {{temperature: 0.2, stop: [a, b]}}
"""
REST = """\
guardrail: {system_prompt: Only code.}
limits: {project: {rpm_limit: 100, max_budget: 20, budget_duration: month}}
"""
PROJECT = "  team-{i}: {{models: [model-{i}, 'model-1*'], limits: {{rpm_limit: 50}}}}\n"


def text(models: int, weight: int) -> str:
    entries = "".join(ENTRY.format(i=i, weight=weight) for i in range(models))
    projects = "".join(PROJECT.format(i=i) for i in range(models // 5))
    return f"models:\n{entries}{REST}projects:\n{projects}"


def main(arguments: list[str]) -> None:
    models = int(arguments[0]) if arguments else 500
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "proxy.yaml"
        path.write_text(text(models, 1))
        inspect(path, {"KEY": "k"}, implemented=IMPLEMENTED)  # the price catalogue is read once
        checks = [_timed(path) for _ in range(ROUNDS)]
        print(f"{models} models, {path.stat().st_size // 1024} KiB: check {min(checks):.0f} ms at best")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            idle, busy = runner.run(_pauses(path, models))
        print(
            f"longest pause of the event loop: {idle:.1f} ms idle, {busy:.1f} ms in the best of {ROUNDS} reloads"
        )


def _timed(path: Path) -> float:
    started = time.perf_counter()
    assert inspect(path, {"KEY": "k"}, implemented=IMPLEMENTED).snapshot is not None
    return (time.perf_counter() - started) * 1000


async def _pauses(path: Path, models: int) -> tuple[float, float]:
    live = LiveConfig(Source(path, lambda: {"KEY": "k"}, IMPLEMENTED))
    gc.collect()
    gc.freeze()  # as a start does
    longest = [0.0]
    ticking = asyncio.create_task(_tick(longest))
    await asyncio.sleep(0.5)
    idle, longest[0] = longest[0], 0.0
    busy = []
    for number in range(ROUNDS):
        path.write_text(text(models, 2 + number))
        longest[0] = 0.0
        await live.poll()
        busy.append(longest[0])
    ticking.cancel()
    assert live.reloads == ROUNDS
    return idle * 1000, min(busy) * 1000  # what disturbs a measurement only ever adds to it


async def _tick(longest: list[float]) -> None:
    """How late a sleep of a millisecond ends, at worst."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], time.perf_counter() - before - 0.001)


if __name__ == "__main__":
    main(sys.argv[1:])
