"""Removes one safeguard of the PostgreSQL ledger at a time from a copy of the tree: a test has to fail each time.

`python -m bench.postgres_mutants [WORD ...]`: only mutants whose names contain a word. About a minute for each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = (
    "codellama_proxy",
    "migrations",
    "tests",
    "bench",
    "scripts",
    "docs",
    "pyproject.toml",
    "proxy.yaml",
)
SECONDS = 300
STORE = "codellama_proxy/store/postgres"
CHANGES = "tests/store/test_postgres_changes.py"
FAILOVER = "tests/store/test_postgres_failover.py"
OUTAGES = "tests/store/test_postgres_outages.py"
REPEATS = "tests/store/test_postgres_repeats.py"
PROTOCOL = "tests/store/test_postgres_protocol.py"
WORKERS = "tests/store/test_postgres_workers.py"


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """At least one of them fails."""


_FENCE = '        trip.send("begin")\n        beaten = trip.send(SQL["beat"], self.number, self._worker)\n'
_NO_FENCE = (
    '        beaten = trip.send(SQL["beat"], self.number, self._worker)\n'
    "        trip.finish()\n"
    "        trip = self._db.round_trip()\n"
    '        trip.send("begin")\n'
)
_FORGET = 'self.settle(Settlement(admit.ask.request_id, "error", 503, basis="exact"))'
_ORDER = "any(%s) order by scope for no key update"
MUTANTS = (
    Mutant("no beat in the transaction", f"{STORE}/batch.py", _FENCE, _NO_FENCE, (REPEATS,)),
    Mutant(
        "no flush",
        f"{STORE}/batch.py",
        'trip.send(SQL["flush"])',
        "pass",
        (f"{PROTOCOL}::test_an_admitted_request_survives_a_crash_of_the_server_at_that_moment",),
    ),
    Mutant(
        "no order of locks",
        f"{STORE}/ledger.sql",
        _ORDER,
        "any(%s) for no key update",
        (f"{PROTOCOL}::test_scopes_are_locked_in_the_order_of_their_names",),
    ),
    Mutant("no look back", f"{STORE}/engine.py", "self._look_back(db)", "pass", (FAILOVER,)),
    Mutant(
        "failed admissions are not forgotten",
        f"{STORE}/ledger.py",
        _FORGET,
        "pass",
        (f"{PROTOCOL}::test_a_server_that_does_not_answer_refuses_requests_in_time",),
    ),
    Mutant(
        "no second sum",
        f"{STORE}/ledger.sql",
        "where verified = 0 and opened_at",
        "where false and opened_at",
        (f"{WORKERS}::test_a_budget_that_appears_while_others_do_not_know_it_is_exact_after_the_second_sum",),
    ),
    Mutant("outages make workers dead", f"{STORE}/workers.py", "self._seen.clear()", "pass", (OUTAGES,)),
    Mutant(
        "a change is repeated blindly",
        f"{STORE}/connections.py",
        "if db.native(_MARK, (number,)).rowcount:",
        "if db.native(_MARK, (number,)).rowcount >= 0:",
        (CHANGES,),
    ),
    Mutant(
        "the number of an unanswered transaction is not asked for",
        f"{STORE}/engine.py",
        "row is not None and row[0] == batch.number",
        "row is not None and row[0] < 0",
        (REPEATS,),
    ),
    Mutant("nothing is repeated", f"{STORE}/engine.py", "tries > MAX_REPEATS", "tries > 0", (REPEATS,)),
    Mutant(
        "a frozen process keeps its locks",
        f"{STORE}/session.py",
        "if idle_seconds is not None:",
        "if idle_seconds == 0:",
        (OUTAGES,),
    ),
)


def check(mutant: Mutant) -> list[str]:
    """The tests that fail with the mutant; the files that pass are left out. Raises `subprocess.TimeoutExpired`."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(place, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)
        path = Path(place, mutant.file)
        text = path.read_text()
        assert mutant.old in text, f"{mutant.name}: {mutant.file} has another text"
        path.write_text(text.replace(mutant.old, mutant.new))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            *mutant.tests,
        ]
        environment = {**os.environ, "PYTHONPATH": place}
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    return [line for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]


def main(words: list[str]) -> int:
    unnoticed = 0
    for mutant in MUTANTS:
        if words and not any(word in mutant.name for word in words):
            continue
        try:
            failed = check(mutant)
        except subprocess.TimeoutExpired:
            result = f"NO RESULT in {SECONDS} s"
        else:
            result = failed[0] if failed else "SURVIVED"
        unnoticed += not result.startswith(("FAILED", "ERROR"))
        print(f"{mutant.name}: {result}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
