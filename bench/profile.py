"""The cost table of a request: processor time by part and by thread, plain and streamed, cache off and on.

    python -m bench.profile [--seconds 6]

The kernel counts the time of each thread (`/proc/PID/task/*/schedstat`); that of the event loop's thread is divided by
samples of its stack (`bench.sampler`). The innermost function that belongs to a part decides.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.compare import PLAIN, STREAMS, Work, call, warmed
from bench.processes import SERVER_CORE, aside, free_port, python, running
from bench.sampler import PACKAGE, SAMPLE_FILE, Stack, samples
from bench.tables import Section, table
from bench.targets import Target, ask, at, command, config, new_key, upstream

PARTS: Mapping[str, tuple[str, ...]] = {
    "server, HTTP": ("server", "web", "uvicorn"),
    "parse, authenticate": (
        "auth",
        "inbound",
        "openai_format",
        "policy",
        "gateway/pipeline.py:parsed",
        "gateway/pipeline.py:Gateway._authenticate",
        "gateway/pipeline.py:Gateway._body",
    ),
    "admission": (
        "limits",
        "tokens",
        "store",
        "gateway/admission_request.py",
        "gateway/accounting.py:Accounting.admit",
        "gateway/accounting.py:Accounting.extend",
        "gateway/accounting.py:Accounting.with_text",
    ),
    "upstream": ("upstream", "providers", "failures"),
    "answer parsing": (
        "core/sse.py",
        "openai_format/completion.py",
        "openai_format/folding.py",
        "openai_format/usage.py",
        "providers/openai/adapter.py:OpenAIAdapter.parse_response",
        "providers/openai/response.py",
        "providers/openai/stream.py",
        "upstream/chunk_template.py",
        "upstream/credential_filter.py",
        "upstream/reply.py",
    ),
    "respond": ("gateway/respond.py", "gateway/response_headers.py"),
    "settle": ("gateway/accounting.py", "gateway/settlement.py", "pricing", "request/charge.py"),
    "log, metrics": ("tracking",),
    "cache": ("cache",),
    "pipeline, choice of deployments": ("gateway", "routing"),
    "event loop, rest": (),
}
"""Files and packages of `codellama_proxy` and functions in them: the most specific one counts."""
REST = "event loop, rest"
PART_OF = {place: part for part, places in PARTS.items() for place in places}
MAIN = "main thread, of it:"
THREADS = {"store-writer": "writer thread", "log": "log thread", "cache_0": "cache thread"}
OTHER_THREADS = "other threads"
CASES = {
    "plain, cache off": (PLAIN, "{enabled: false}"),
    "plain, cache on": (PLAIN, "{enabled: true}"),
    "51 chunks, cache off": (STREAMS, "{enabled: false}"),
    "51 chunks, cache on": (STREAMS, "{enabled: true}"),
}
SITE_PACKAGES = "site-packages/"
LOOP = "asyncio/runners.py"
"""Where the event loop was started: outer functions only wait for it."""
HOW = """\
CPU µs of a request, 32 connections, each request with another prompt. The kernel counts the time of each thread; the
main thread's is divided by samples of its stack, at least {fewest} of them, so small parts are rough. Waiting for the
sockets and switching between tasks are in the last part; writing to a client's socket is in the first."""


def part_of(stack: Stack) -> str:
    """The part of the innermost function that belongs to one."""
    for file, name in stack:
        if file.endswith(LOOP):
            break
        _, ours, path = file.rpartition(PACKAGE)
        if not ours:
            _, _, path = file.rpartition(SITE_PACKAGES)
        for place in _places(path, name):
            if place in PART_OF:
                return PART_OF[place]
    return REST


def _places(path: str, name: str) -> Iterable[str]:
    """The function, its file, and the packages around it."""
    yield f"{path}:{name}"
    while path:
        yield path
        path = path.rpartition("/")[0]


def thread_ns(pid: int) -> dict[int, int]:
    """Processor time of each thread so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return found


def profiled(work: Work, cache: str, seconds: float) -> tuple[dict[str, float], int]:
    """Microseconds of a request by row of the table, and how many samples there were."""
    with tempfile.TemporaryDirectory() as name, upstream() as instant:
        directory, port = Path(name), free_port()
        target = Target("proxy", at(port), new_key(directory), unique=True)
        _, _, _, *arguments = command(directory, config(instant, cache=cache), port)
        path = directory / "samples"
        sampled = python("bench.sampler", *arguments)
        env = {SAMPLE_FILE: str(path)}
        with running(sampled, SERVER_CORE, lambda: ask(target)[0] == 200, env, directory / "log") as server:
            warmed(target)
            samples(server.pid, path)
            before = thread_ns(server.pid)
            requests = call(target, work, seconds)["requests"]
            after = thread_ns(server.pid)
            stacks, names = samples(server.pid, path)
    spent = {thread: (ns - before.get(thread, 0)) / requests / 1000 for thread, ns in after.items()}
    return by_row(stacks, spent, names, server.pid), sum(count for _, count in stacks)


def by_row(
    stacks: Iterable[tuple[Stack, int]], spent: Mapping[int, float], names: Mapping[int, str], main: int
) -> dict[str, float]:
    """`spent` by thread, that of the thread `main` by part, too."""
    seen: collections.Counter[str] = collections.Counter()
    for stack, count in stacks:
        seen[part_of(stack)] += count
    rows = collections.Counter({MAIN: spent[main]})
    for part in PARTS:
        rows[part] = spent[main] * seen[part] / max(1, seen.total())
    for thread, time in spent.items():
        if thread != main:
            rows[THREADS.get(names.get(thread, ""), OTHER_THREADS)] += time
    rows["all"] = sum(spent.values())
    return dict(rows)


def profile(seconds: float) -> Section:
    found = {title: profiled(work, cache, seconds) for title, (work, cache) in CASES.items()}
    names = [MAIN, *PARTS, *THREADS.values(), OTHER_THREADS, "all"]
    rows = [
        (f"- {name}" if name in PARTS else name, *(f"{one.get(name, 0.0):.0f}" for one, _ in found.values()))
        for name in names
    ]
    how = HOW.format(fewest=min(count for _, count in found.values()))
    return Section("Where the time goes", f"{how}\n\n{table(['', *found], rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    aside()
    print(profile(args.seconds))


if __name__ == "__main__":
    main()
