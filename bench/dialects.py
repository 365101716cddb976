"""Latency of `/v1/messages` and `/v1/responses` beside that of chats, translated for the same upstream.

python -m bench.dialects [--rounds 5] [--seconds 2]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.compare import ALONE, ALONE_STREAMS, Found, Work, added, in_turns, latency
from bench.processes import aside
from bench.tables import Goal, Section, at_most
from bench.targets import PATH, config, proxy, upstream

CHAT = "chat"
OTHERS = {"messages": "/v1/messages", "responses": "/v1/responses"}
TOLERATED = 1.2
HOW = """\
One server, cache on, each request with another prompt, and an upstream that only has chat completions: requests of
Anthropic's Messages API and OpenAI's Responses API are translated, and so are the answers."""


def dialects(rounds: int, seconds: float) -> Section:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = stack.enter_context(upstream())
        chat = stack.enter_context(proxy(directory, config(direct, cache="{}"), CHAT, unique=True))
        targets = [direct, chat]
        targets += [
            replace(chat, name=name, url=chat.url.removesuffix(PATH) + path) for name, path in OTHERS.items()
        ]
        found = {}
        for work in (ALONE, ALONE_STREAMS):
            in_turns(targets, work, 1, 0.5)  # the first requests load what is loaded late
            found[work] = in_turns(targets, work, rounds, seconds)
    shown = [f"### {work.title}, by API\n\n{latency(of_work)}" for work, of_work in found.items()]
    return Section("Other APIs", "\n\n".join([HOW, *shown]), tuple(goals_of(found)))


def goals_of(found: Mapping[Work, Found]) -> list[Goal]:
    return [
        at_most(
            f"added p50 of {path}, {'streams' if work.stream else 'plain'}, of chat's",
            added(of_work, name)[0] / added(of_work, CHAT)[0],
            TOLERATED,
            "{:.0%}",
        )
        for work, of_work in found.items()
        for name, path in OTHERS.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    aside()
    print(dialects(args.rounds, args.seconds))


if __name__ == "__main__":
    main()
