"""What the cache is worth: hits against misses of an instant upstream, and what 100 000 answers do to a lookup.

    python -m bench.cache [--rounds 3] [--seconds 3]

Everything on, as in `bench.compare`. `off` is the proxy without a cache; `misses` never find anything (a limit of
age of 0 s) and pay for looking; `hits` are found in memory. Then lookups and memory by how much is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import orjson

from bench.compare import ALONE, PLAIN, STREAMS, in_turns, throughput
from bench.tables import machine, table
from bench.targets import Target, config, proxy, upstream
from codellama_proxy.cache.key import CachedAnswer, CacheScope, key_of
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.snapshot import Deployment, Guardrail, Model, Project
from codellama_proxy.openai_format.completion import whole_event
from codellama_proxy.openai_format.request import parse_chat
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.project_rules import ProjectRules

TEAM = CacheScope("project", "team", "team")
LOOKUPS = 20_000
NOTHING_OLD = '{"cache": {"s-maxage": 0}}'
WORDS = "x" * 400
CHAT = parse_chat(
    orjson.dumps({"messages": [{"role": "user", "content": "write me a function to print hello world"}]})
)
GUARDRAIL = Guardrail("Only respond to questions about code.")
MODEL = Model("m", (Deployment("m#1", "m", "openai_compatible", "m"),), ())


def answer() -> CachedAnswer:
    choice = {"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
    event = whole_event(orjson.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage}))
    return CachedAnswer(event, "m#1", (), time.time(), time.time() + 3600)


async def lookups(count: int) -> tuple[float, float, float, float]:
    """Microseconds of a key, of a hit in memory and of a miss, with so many kept; and their bytes in memory."""
    with tempfile.TemporaryDirectory() as directory:
        answers = CacheStorage(Path(directory) / "cache.db", time.monotonic, memory=1 << 30)
        await answers.open()
        try:
            keys = [number.to_bytes(32, "big") for number in range(count)]
            for number, key in enumerate(keys):
                answers.put(key, answer(), TEAM, "m", count)
                if number % 500 == 0:
                    await answers.read(lambda _: None)  # lets the disk follow
            made = timed_keys()
            found = await timed(answers, keys)
            missed = await timed(answers, [b"?" + key[1:] for key in keys[:1000]])
            return made, found, missed, answers.memory.bytes / 1e6
        finally:
            await answers.close()


def timed_keys() -> float:
    started = time.perf_counter()
    for _ in range(LOOKUPS):
        requests = DeploymentRequests(CHAT, ProjectRules(GUARDRAIL, Project("team")))
        key_of("project", "team", requests, MODEL)
    return (time.perf_counter() - started) / LOOKUPS * 1e6


async def timed(answers: CacheStorage, keys: list[bytes]) -> float:
    step = max(len(keys) // 997, 1)
    started = time.perf_counter()
    for number in range(LOOKUPS):
        await answers.find(keys[number * step % len(keys)], TEAM)
    return (time.perf_counter() - started) / LOOKUPS * 1e6


def lookup_table() -> str:
    header = [
        "answers kept",
        "making a key",
        "a hit in memory",
        "a miss",
        "MB of answers",
        "MB of the process",
    ]
    rows = []
    for count in (1_000, 100_000):
        made, found, missed, size = asyncio.run(lookups(count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        rows.append(
            (f"{count:,}", f"{made:.1f}", f"{found:.2f}", f"{missed:.2f}", f"{size:.0f}", f"{peak:.0f}")
        )
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    print(f"Measured on: {machine()}")
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(upstream())
        started: list[Target] = []
        for name, cache in (("off", "{enabled: false}"), ("hits", "{enabled: true}")):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            started.append(stack.enter_context(proxy(directory, config(direct, cache=cache), name)))
        off, hits = started
        misses = replace(hits, name="misses", fields=NOTHING_OLD)
        for work in (PLAIN, STREAMS, ALONE):
            found = in_turns([off, misses, hits], work, args.rounds, args.seconds)
            print(f"\n{work.title}\n\n{throughput(found, 'misses')}")
    print(f"\nLookups, µs\n\n{lookup_table()}")


if __name__ == "__main__":
    main()
