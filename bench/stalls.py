"""Latency at one connection while the disk stalls: each sync of a file takes 200 ms longer.

    python -m bench.stalls [--rounds 3] [--seconds 4]

The syncs are delayed by a small library that is preloaded into the server, so a C compiler is needed (`cc`).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.compare import ALONE, added, in_turns, latency, warmed
from bench.processes import aside
from bench.tables import Section, at_most
from bench.targets import config, proxy, upstream

SOURCE = Path(__file__).with_name("stall.c")
NOTED = "stalled sync"
TITLE = "While the disk stalls"
STALLING = "proxy, stalling disk"
HOW = """\
Plain answers at one connection, cache on, each with another prompt. Of the second server each `fsync` and `fdatasync`
takes 200 ms longer, by a preloaded library: {syncs} of them during the runs."""
NO_COMPILER = "Not measured: there is no C compiler (`cc`) to build the library that delays syncs."


def built(directory: Path) -> Path | None:
    """The library that delays syncs; `None` without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "stall.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
    return library


def stalls(rounds: int, seconds: float) -> Section:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        library = built(directory)
        if library is None:
            return Section(TITLE, NO_COMPILER)
        direct = stack.enter_context(upstream())
        targets = [direct]
        for name, env in (("proxy", {}), (STALLING, {"LD_PRELOAD": str(library)})):
            place = directory / name
            place.mkdir()
            text = config(direct, cache="{}")
            targets.append(stack.enter_context(proxy(place, text, name, unique=True, env=env)))
        for target in targets:
            warmed(target)
        log = directory / STALLING / "log"
        before = syncs(log)
        found = in_turns(targets, ALONE, rounds, seconds)
        count = syncs(log) - before
    if not count:
        raise SystemExit("no sync was delayed: the library has no effect here")
    p50, p99 = added(found, STALLING)
    goals = (
        at_most("added at one connection while the disk stalls for 200 ms, p50", p50, 0.8, "{:.2f} ms"),
        at_most("added at one connection while the disk stalls for 200 ms, p99", p99, 3.0, "{:.2f} ms"),
    )
    return Section(TITLE, f"{HOW.format(syncs=count)}\n\n{latency(found)}", goals)


def syncs(log: Path) -> int:
    """How many were delayed so far."""
    return log.read_text("utf-8", "replace").count(NOTED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    aside()
    print(stalls(args.rounds, args.seconds))


if __name__ == "__main__":
    main()
