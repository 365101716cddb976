"""What a request costs when there is much of everything: keys, rows in the ledger, models.

    python -m bench.growth [--rounds 15] [--seconds 0.5]

One server for each case, all of them up, asked in turns; the figure is the server's CPU time for a request, the best
of many short runs: what disturbs a measurement only ever adds to it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import PLAIN, Figures, call, chosen, interleaved
from bench.ledger import fill
from bench.processes import aside
from bench.tables import Section, at_most, figure, table
from bench.targets import Target, config, database, proxy, upstream
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sqlite.migrations import prepare

KEYS, ROWS, MODELS = 100_000, 1_000_000, 500
FEW_KEYS, FEW_MODELS = 1, 3
PROJECTS = 100
ROUNDS, SECONDS = 15, 0.5
MAX_USE_SECONDS = 600.0
"""How long the first requests of all keys may take."""
FEW = "one key, an empty ledger, 3 models"
ONE = f"{KEYS:,} keys, one of them asks"
ANY = f"{KEYS:,} keys, any of them asks"
FIRST = f"{KEYS:,} keys, each asks for the first time since the start"
TOLERATED = 1.10
"""Also what noise alone makes of two equal servers here."""
MODEL = """\
  - name: model-{number}
    provider: openai_compatible
    base_url: http://127.0.0.1:{port}/v1
    price: {{input: 1, output: 2}}
"""
USED = """
insert into scopes (scope, rpm_level, rated_at, spent_nanos, held_nanos, folded_nanos)
select 'key:' || key_id, 1000000, :now, 0, 0, 0 from keys
"""
HOW = """\
One server for each case, all at once, asked in turns: plain answers, 32 connections, many short runs. The figure is the
CPU time of the server, the best of its runs: what disturbs a measurement only ever adds to it. The keys belong to 100
projects. The first request of a key since the start of the server reads the key and its balance from the database: it
is measured in runs of its own, and the goal for any of the keys is for later requests. Each request of a connection
has another key, so the server recognizes none of their heads. A 50th of the million rows belongs to the project that
asks, a 1 000th to the key. The model that is asked for has all the others for its fallbacks."""


@dataclass(frozen=True)
class Case:
    name: str
    target: Target
    keys: Path
    """One a line; each request takes any of them."""

    def asked(self, seconds: float) -> dict[str, float]:
        return call(self.target, PLAIN, seconds, "--keys", self.keys)

    def use_all(self) -> None:
        """One request with each key."""
        count = len(self.keys.read_text().split())
        call(self.target, PLAIN, MAX_USE_SECONDS, "--keys", self.keys, "--in-turn", "--requests", count)


class FirstUses:
    """Runs of a case in which each request has a key that has not asked yet."""

    def __init__(self, case: Case, runs: int) -> None:
        self._target = case.target
        secrets = case.keys.read_text().split()[1:]
        self._size = len(secrets) // runs
        self._files = iter(
            [
                listed(case.keys.with_name(f"new-{run}"), secrets[run * self._size : (run + 1) * self._size])
                for run in range(runs)
            ]
        )

    def asked(self, seconds: float) -> dict[str, float]:
        options = "--keys", next(self._files), "--in-turn", "--requests", self._size
        return call(self._target, PLAIN, seconds, *options)


@contextlib.contextmanager
def cases() -> Iterator[list[Case]]:
    """All of them, each with a server that runs."""
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(upstream())

        def case(name: str, keys: int = FEW_KEYS, rows: int = 0, models: int = FEW_MODELS) -> Case:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            secrets = filled(directory, keys, rows)
            entries = "".join(MODEL.format(number=one, port=direct.port) for one in range(1, models))
            started = proxy(directory, config(direct, models=entries), name, secrets[0])
            return Case(name, stack.enter_context(started), listed(directory / "keys", secrets))

        many = case(ANY, keys=KEYS)
        one = many.keys.read_text().split()[:1]
        yield [
            case(FEW),
            Case(ONE, many.target, listed(many.keys.with_name("one"), one)),
            many,
            case(f"{ROWS:,} rows in the ledger", rows=ROWS),
            case(f"{MODELS} models", models=MODELS),
        ]


def filled(directory: Path, keys: int, rows: int) -> list[str]:
    """The secrets of the keys in a new database."""
    path = database(directory)
    prepare(path)
    now = time.time()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        made = [
            key_rows.create(db, KeyChange({"key_alias": f"team-{number % PROJECTS}"}), now)
            for number in range(keys)
        ]
        db.execute(USED, {"now": now})
    key, _ = made[0]
    fill(path, rows, key.project, key.key_id)
    return [secret for _, secret in made]


def listed(path: Path, secrets: Sequence[str]) -> Path:
    path.write_text("\n".join(secrets))
    return path


def compared(runs: Mapping[str, Sequence[Figures]], best: Mapping[str, float]) -> str:
    rows = []
    for name, of_case in runs.items():
        figures = chosen(of_case, statistics.median)
        cpu = f"{best[name]:.0f}", f"{best[name] / best[FEW]:.0%}", f"{figures['cpu_us']:.0f}"
        rows.append((name, *cpu, figure(figures["per_second"])))
    return table(["", "server CPU µs/request, best", "of the first", "median", "requests/s, median"], rows)


def growth(rounds: int, seconds: float) -> Section:
    with cases() as all_of_them:
        for case in all_of_them:
            case.asked(0.5)  # the first request of a budget sums up what is recorded
        turns = {case.name: functools.partial(case.asked, seconds) for case in all_of_them}
        many = next(case for case in all_of_them if case.name == ANY)
        new = FirstUses(many, rounds)
        first = interleaved({FEW: turns[FEW], FIRST: functools.partial(new.asked, seconds)}, rounds)
        many.use_all()
        later = interleaved(turns, rounds)
    runs = {**later, FEW: [*first[FEW], *later[FEW]], FIRST: first[FIRST]}
    best = {name: chosen(of_case, min)["cpu_us"] for name, of_case in runs.items()}
    goals = [
        at_most(f"CPU of a request: {name}", cpu / best[FEW], TOLERATED, "{:.0%}")
        for name, cpu in best.items()
        if name not in (FEW, FIRST)
    ]
    same = at_most(
        f"CPU of a request: any of {KEYS:,} keys, of one key's at the same server",
        best[ANY] / best[ONE],
        TOLERATED,
        "{:.0%}",
    )
    shown = compared(runs, best)
    return Section("What grows with keys, rows and models", f"{HOW}\n\n{shown}", (*goals, same))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    args = parser.parse_args()
    aside()
    print(growth(args.rounds, args.seconds))


if __name__ == "__main__":
    main()
