"""The short table in README.md, made of the tables in bench/RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bench.compare import ALONE, PLAIN, STREAMS
from bench.tables import figure, table

HEADER = (
    "",
    "requests/s",
    "51-chunk streams/s",
    "added to an answer, p50",
    "memory",
    "first answer after",
)
SAID = {
    "asgi relay": "one coroutine over aiohttp that only relays",
    "proxy, hits": "codellama-proxy, answers from its cache",
    "proxy, no cache": "codellama-proxy, cache off",
    "proxy": "codellama-proxy, cache on, every request misses",
    "Portkey": "{name}, no keys, no accounting",
    "LiteLLM": "{name}, no database",
}
"""What README calls each server of the results, in its order; peers also have their version there."""
TABLE = re.compile(rf"{re.escape(table(HEADER, []))}\n(?:\|.*\n)*")
VERSION = re.compile(r" [0-9][0-9.]*$")

Rows = Mapping[str, Sequence[str]]


def rows_under(results: str, title: str) -> Rows:
    """The cells of the first table below a heading, by the first cell; none without such a heading."""
    _, _, below = results.partition(f"\n### {title}\n")
    lines = [line for line in below.partition("\n#")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name: rest for name, *rest in cells}


def summary(results: str) -> str:
    """The table for README.md; the results must have been written by `scripts/bench --write`."""
    plain, streams = rows_under(results, PLAIN.title), rows_under(results, STREAMS.title)
    alone, sizes = rows_under(results, ALONE.title), rows_under(results, "Start and resident memory")
    measured = {VERSION.sub("", name): name for name in sizes}
    rows = []
    for short, said in SAID.items():
        if short in measured:
            name = measured[short]
            start, idle, _ = sizes[name]
            row = (
                said.format(name=name),
                *(figure(float(rate)) for rate in (plain[name][0], streams[name][0])),
                f"{float(alone[name][2]):.1f} ms",
                f"{idle} MB",
                f"{float(start):.1f} s",
            )
            rows.append(row)
    return table(HEADER, rows) + "\n"


def with_summary(readme: str, results: str) -> str:
    """README.md with the table of these results; raises `ValueError` if it has no such table."""
    changed, count = TABLE.subn(lambda _: summary(results), readme)
    if count != 1:
        raise ValueError("README.md must have one table of measurements")
    return changed
