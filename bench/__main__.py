"""Measures what is promised, and prints it as tables or writes bench/RESULTS.md.

scripts/bench                       the proxy beside a bare relay, under three minutes
scripts/bench --peers               and beside LiteLLM's proxy and Portkey's gateway
scripts/bench --growth --memory     and what grows with keys, rows and models; start and memory
scripts/bench --write               all of this, about twelve minutes, into bench/RESULTS.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.compare import side_by_side
from bench.growth import SECONDS, growth
from bench.memory import memory
from bench.processes import aside
from bench.tables import Section, counting, machine, paragraph, promises
from codellama_proxy import __version__

RESULTS = Path(__file__).with_name("RESULTS.md")
PAGE = """\
# Results

{measured}

{promises}

{sections}
## More

`python -m bench.cache` measures what a hit is worth, `bench.ledger` what admission and settlement cost,
`bench.configuration` what a reload costs, `bench.paced` what hundreds of streams of a token each 20 ms cost, and
`bench.soak` that nothing grows under a minute of faults.
"""
MEASURED = """\
codellama-proxy {version}, measured on {date} by `scripts/bench {options}` on: {machine}. To add up the numbers below
ten million took its Python {before:.2f} s before and {after:.2f} s after."""


def measured(args: argparse.Namespace) -> Iterator[Section]:
    yield side_by_side(args.rounds, args.seconds, others=args.peers)
    if args.growth:
        yield growth(3 * args.rounds, SECONDS)
    if args.memory:
        yield memory(args.requests)


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
        promises=promises(sections),
        sections="\n".join(str(section) for section in sections),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help="install and measure other gateways, too")
    parser.add_argument("--growth", action="store_true", help="with many keys, rows and models, too")
    parser.add_argument("--memory", action="store_true", help="start and memory, too")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"what is measured, or everything if nothing is named, into {RESULTS.name}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, of which the median counts")
    parser.add_argument("--seconds", type=float, default=2, help="of each turn beside others")
    parser.add_argument("--requests", type=int, default=100_000, help="after which memory is read")
    args = parser.parse_args()
    if args.write and not (args.peers or args.growth or args.memory):
        args.peers = args.growth = args.memory = True
    return args


def main() -> None:
    args = arguments()
    aside()
    before, sections = counting(), []
    print(f"Measured on: {machine()}\n")
    for section in measured(args):
        sections.append(section)
        print(section, flush=True)
    print(promises(sections))
    if args.write:
        RESULTS.write_text(page(sections, before, sys.argv[1:]))


if __name__ == "__main__":
    main()
