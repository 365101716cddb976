"""Loads one PostgreSQL database from several processes under faults, and checks the books.

`python -m bench.postgres_faults [SECONDS] [WORKERS] [cut=0.05] [kill=3] [crash=5] [pause=4] [budget=NANOS]`
"""

from __future__ import annotations

import sys

from tests.support.postgres_faults import Faults, run


def main(arguments: list[str]) -> int:
    options = dict(one.split("=") for one in arguments if "=" in one)
    seconds, workers = [float(one) for one in arguments if "=" not in one] or (20.0, 4.0)
    budget = int(options.pop("budget", 10**9))
    faults = Faults(**{name: float(value) for name, value in options.items()})
    report = run(seconds, int(workers), faults, budget=budget)
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
