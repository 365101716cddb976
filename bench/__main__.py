"""Measures and prints tables, with each target and whether it was reached, or writes bench/RESULTS.md.

scripts/bench                       the proxy beside a bare relay, under three minutes
scripts/bench --peers               and beside LiteLLM's proxy and Portkey's gateway
scripts/bench --growth --memory     and what grows with keys, rows and models; start and memory
scripts/bench --profile             and the cost table of a request; with --only nothing else
scripts/bench --postgres            and what PostgreSQL costs, and what several processes bring
scripts/bench --reports --rows N    and what reports take on PostgreSQL over so many requests: half an hour for 10⁷
scripts/bench --file-reports        and what they take on SQLite over a million
scripts/bench --write               all of this but reports, about 20 minutes, into bench/RESULTS.md and README's table
scripts/bench --only --postgres --write      that section of bench/RESULTS.md only
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.compare import side_by_side
from bench.dashboard_rows import ROWS
from bench.dialects import dialects
from bench.growth import ROUNDS, SECONDS, growth
from bench.memory import memory
from bench.paced import paced
from bench.postgres import postgres
from bench.postgres_reports import FILE_TITLE, TITLE, file_reports, reports
from bench.processes import NotUp, aside
from bench.profile import profile
from bench.stalls import stalls
from bench.summary import with_summary
from bench.tables import Section, counting, goals, machine, paragraph, section_of, with_sections
from codellama_proxy import __version__

RESULTS = Path(__file__).with_name("RESULTS.md")
README = RESULTS.parent.parent / "README.md"
QUICK, FULL = (3, 1.2), (5, 2.0)
"""Rounds, and seconds of each turn: beside the relay alone, and with more."""
STREAMS_AT_ONCE = 500
PAGE = """\
# Results

{measured}

{goals}

{sections}
## More

`python -m bench.cache` measures what a hit is worth, `bench.ledger` what admission and settlement cost,
`bench.configuration` what a reload costs, `bench.dashboard` how long its pages take over a million requests, and
`bench.soak` that nothing grows under a minute of faults. `bench.postgres_ledger` measures the ledger on PostgreSQL
alone, `bench.postgres_faults` tests it under faults, and `bench.postgres_mutants` shows that its tests notice a missing
safeguard.
"""
MEASURED = """\
codellama-proxy {version}, measured on {date} by `scripts/bench {options}` on: {machine}. To add up the numbers below
ten million took its Python {before:.2f} s before and {after:.2f} s after."""

Measure = Callable[[argparse.Namespace], Section]
COMPARED = "side by side"
MORE: Mapping[str, tuple[Measure, str]] = {
    "dialects": (
        lambda args: dialects(args.rounds, args.seconds),
        "the latency of the Messages and Responses APIs beside that of chats",
    ),
    "stalls": (lambda args: stalls(args.rounds, 2 * args.seconds), "the latency while the disk stalls"),
    "paced": (
        lambda args: paced(STREAMS_AT_ONCE, 2 * args.seconds, args.rounds),
        "streams at the pace of a model",
    ),
    "postgres": (
        lambda args: postgres(2 * args.seconds),
        "what PostgreSQL costs, and what several processes bring",
    ),
    "reports": (
        lambda args: reports(args.rows, args.rounds, args.database, args.earlier),
        "what reports take on PostgreSQL",
    ),
    "file_reports": (
        lambda args: file_reports(ROWS, args.rounds, args.file, args.file_earlier),
        "what reports take on SQLite over a million requests",
    ),
    "growth": (lambda _: growth(ROUNDS, SECONDS), "many keys, rows and models"),
    "memory": (lambda args: memory(args.requests), "start and memory"),
    "profile": (lambda args: profile(3 * args.seconds), "the cost table of a request, by part and by thread"),
}
"""What is measured beside the comparison, by option."""
LONG = ("reports", "file_reports")
"""Measured only if they are named."""
KEPT = (TITLE, FILE_TITLE)
"""Sections that stay as they are if they are not measured."""


def measures(args: argparse.Namespace) -> Mapping[str, Measure]:
    """What was asked for, in the order of the page."""
    more = {name: measure for name, (measure, _) in MORE.items() if getattr(args, name)}
    return more if args.only else {COMPARED: _compared, **more}


def _compared(args: argparse.Namespace) -> Section:
    return side_by_side(args.rounds, args.seconds, others=args.peers)


def measured(name: str, measure: Measure, args: argparse.Namespace) -> Section:
    """One section; it says so if it could not be measured, so that the others are."""
    try:
        return measure(args)
    except (NotUp, SystemExit) as error:
        if name == COMPARED:
            raise
        return Section(f"--{name}", f"**Not measured**: {error}.")


def page(sections: Sequence[Section], before: float, options: Sequence[str]) -> str:
    head = MEASURED.format(
        version=__version__,
        date=datetime.now(UTC).date(),
        options=" ".join(options),
        machine=machine(),
        before=before,
        after=counting(),
    )
    return PAGE.format(
        measured=paragraph(head),
        goals=goals(sections),
        sections="\n".join(str(section) for section in sections),
    )


def results(previous: str, sections: Sequence[Section], before: float, args: argparse.Namespace) -> str:
    """A new page, or the previous one with the sections that were measured."""
    if args.only:
        return with_sections(previous, sections)
    titles = {section.title for section in sections}
    kept = [one for title in KEPT if title not in titles and (one := section_of(previous, title)) is not None]
    return with_sections(page(sections, before, sys.argv[1:]), kept)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help="also install and measure other gateways")
    for name, (_, what) in MORE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=f"also {what}")
    parser.add_argument(
        "--only", action="store_true", help="not the comparison with the relay; written in place"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"what is measured, or everything if nothing is named, into {RESULTS.name} and {README.name}",
    )
    parser.add_argument("--rounds", type=int, help="turns of each, of which the median counts")
    parser.add_argument("--seconds", type=float, help="of each turn beside others")
    parser.add_argument("--rows", type=int, default=ROWS, help="requests in the database of reports")
    parser.add_argument("--database", help="of --reports, which is filled already: a postgresql:// address")
    parser.add_argument("--file", help="of --file-reports, which is filled already")
    for option in ("--earlier", "--file-earlier"):
        parser.add_argument(
            option, type=Path, help="what bench.postgres_reports printed for an earlier version, to show"
        )
    parser.add_argument("--requests", type=int, default=100_000, help="after which memory is read")
    args = parser.parse_args(given)
    named = args.peers or any(getattr(args, name) for name in MORE)
    if args.write and not named:
        args.peers = named = True
        for name in MORE:
            setattr(args, name, name not in LONG)
    if args.only and (args.peers or not named):
        parser.error("--only needs something else to measure, and does not go with --peers")
    rounds, seconds = FULL if named else QUICK
    args.rounds, args.seconds = args.rounds or rounds, args.seconds or seconds
    return args


def main() -> None:
    args = arguments()
    aside()
    before, sections = counting(), []
    print(f"Measured on: {machine()}\n")
    for name, measure in measures(args).items():
        section = measured(name, measure, args)
        sections.append(section)
        print(section, flush=True)
    print(goals(sections))
    if args.write:
        RESULTS.write_text(results(RESULTS.read_text(), sections, before, args))
        README.write_text(with_summary(README.read_text(), RESULTS.read_text()))


if __name__ == "__main__":
    main()
