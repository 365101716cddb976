"""What is said of measurements: Markdown tables, the machine, and targets beside what was found."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Goal:
    """A target, and what was measured."""

    what: str
    bound: str
    found: str
    reached: bool


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    goals: Sequence[Goal] = ()

    def __str__(self) -> str:
        return f"## {self.title}\n\n{self.text}\n"


def at_most(what: str, found: float, bound: float, form: str) -> Goal:
    return Goal(what, f"≤ {form.format(bound)}", form.format(found), found <= bound)


def at_least(what: str, found: float, bound: float, form: str) -> Goal:
    return Goal(what, f"≥ {form.format(bound)}", form.format(found), found >= bound)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The first column to the left, figures to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


_HEADER = ("", "target", "measured", "")


def goals(sections: Iterable[Section]) -> str:
    """As a table: each target, and whether it was reached."""
    rows = [
        (one.what, one.bound, one.found, "reached" if one.reached else "**missed**")
        for section in sections
        for one in section.goals
    ]
    return table(_HEADER, rows)


_GOALS = table(_HEADER, []) + "\n"


def with_sections(page: str, sections: Iterable[Section]) -> str:
    """A page of results with these sections instead of those with their titles, and with their goals.

    What the page did not have comes last, before its section "More".
    """
    for section in sections:
        before, heading, rest = page.partition(f"## {section.title}\n")
        if heading:
            _, following, after = rest.partition("\n## ")
            page = f"{before}{section}{following}{after}"
        else:
            before, heading, after = page.partition("## More\n")
            page = f"{before}{section}\n{heading}{after}"
        for line in goals([section]).splitlines()[2:]:
            page = _with_goal(page, line)
    return page


def _with_goal(page: str, line: str) -> str:
    head, _, rest = page.partition(_GOALS)
    lines = rest.partition("\n\n")[0].splitlines()
    name = line.split(" | ", maxsplit=1)[0]
    kept = [line if one.startswith(f"{name} | ") else one for one in lines]
    if line not in kept:
        kept.append(line)
    return f"{head}{_GOALS}" + "\n".join(kept) + rest[len("\n".join(lines)) :]


def section_of(page: str, title: str) -> Section | None:
    """A section of a page of results, and the goals whose names begin with its title; `None` if there is none."""
    _, heading, rest = page.partition(f"## {title}\n\n")
    if not heading:
        return None
    rows = page.partition(_GOALS)[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    found = [
        Goal(what, bound, value, state == "reached")
        for what, bound, value, state in cells
        if what.startswith(title)
    ]
    return Section(title, rest.partition("\n## ")[0].rstrip("\n"), found)


def paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def figure(value: float) -> str:
    """Three digits that count: 0.123, 1.23, 12.3, 1234."""
    return f"{value:.{max(0, 3 - len(str(int(value))) if value >= 1 else 3)}f}"


def machine() -> str:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    python, kernel = sys.version.split()[0], os.uname().release.partition("-")[0]
    return f"{model}, {os.cpu_count()} cores, Python {python}, Linux {kernel}"


def counting() -> float:
    """Seconds that a loop of ten million additions takes: how fast this machine's Python is just now."""
    started = time.perf_counter()
    total = 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - started
