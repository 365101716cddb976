"""Side by side: the proxy, a bare relay, and whoever else was started, on the same work, in turns.

    python -m bench.compare [--rounds 5] [--seconds 4]

Everything on: key, guardrail, limits in three scopes, ledger on disk, metrics, log line to a file. The server has
one core, the upstream and the load share the other. `direct` shows that those two are not what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import (
    LOAD_CORE,
    SERVER_CORE,
    cpu_seconds,
    free_port,
    machine,
    python,
    resident_mb,
    running,
)

CONFIG = """
models:
  - name: bench
    provider: openai_compatible
    model: instant
    base_url: http://127.0.0.1:{upstream}/v1
    price: {{input: 1, output: 2}}
guardrail: {{system_prompt: "Only respond to questions about code."}}
cache: {{enabled: false}}
limits:
  global: {{max_parallel_requests: 5000, rpm_limit: 100000000}}
  project: {{rpm_limit: 100000000, max_budget: 100000, budget_duration: month}}
  key: {{rpm_limit: 100000000}}
server: {{max_parallel_requests: 5000}}
"""


@dataclass(frozen=True)
class Target:
    name: str
    url: str
    key: str = "none"
    pid: int | None = None
    fields: str = "{}"
    """More for the body of each request, as JSON."""


def call(target: Target, *, connections: int, seconds: float, stream: bool) -> dict[str, float]:
    """One run of the load; adds the server's CPU time per request, in microseconds."""
    before = cpu_seconds(target.pid) if target.pid else 0.0
    options = ["--connections", connections, "--seconds", seconds, "--key", target.key]
    options += ["--fields", target.fields]
    command = ["taskset", "-c", str(LOAD_CORE), *python("bench.load", target.url, *options)]
    done = subprocess.run(command + ["--stream"] * stream, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    if target.pid:
        result["cpu_us"] = (cpu_seconds(target.pid) - before) / result["requests"] * 1e6
    return result


@contextlib.contextmanager
def upstream() -> Iterator[Target]:
    port = free_port()
    with running(python("bench.instant", port), LOAD_CORE, port):
        yield Target("direct", f"http://127.0.0.1:{port}/v1/chat/completions")


@contextlib.contextmanager
def relay(to: Target) -> Iterator[Target]:
    port = free_port()
    with running(python("bench.relay", port, to.url), SERVER_CORE, port) as process:
        yield Target("relay", f"http://127.0.0.1:{port}/v1/chat/completions", pid=process.pid)


@contextlib.contextmanager
def proxy(directory: Path, config: str) -> Iterator[Target]:
    """The real command, with a key of its own."""
    port = free_port()
    (directory / "proxy.yaml").write_text(config)
    database = directory / "proxy.db"
    made = subprocess.run(
        [sys.executable, "scripts/keys.py", "create", "default", "--json", "--database", database],
        capture_output=True,
        check=True,
    )
    serve = python(
        "codellama_proxy",
        "serve",
        "--config",
        directory / "proxy.yaml",
        "--database",
        database,
        "--port",
        port,
    )
    with running(serve, SERVER_CORE, port, log=directory / "log") as process:
        key = json.loads(made.stdout)["key"]
        yield Target("proxy", f"http://127.0.0.1:{port}/v1/chat/completions", key, process.pid)


def in_turns(targets: list[Target], rounds: int, **work: object) -> dict[str, dict[str, float]]:
    """The median of every figure, the targets interleaved so that a noisy minute hits all of them."""
    seen: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            seen[target.name].append(call(target, **work))  # type: ignore[arg-type]
    return {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in seen.items()
    }


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def table(title: str, found: dict[str, dict[str, float]], baseline: str) -> None:
    print(f"\n{title}\n")
    row("", "requests/s", f"of {baseline}", "p50 ms", "p99 ms", "server CPU µs/request")
    row("---", "---:", "---:", "---:", "---:", "---:")
    for name, figures in found.items():
        share = figures["per_second"] / found[baseline]["per_second"]
        cpu = f"{figures['cpu_us']:.0f}" if "cpu_us" in figures else ""
        row(name, f"{figures['per_second']:.0f}", f"{share:.0%}", figures["p50_ms"], figures["p99_ms"], cpu)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    print(f"Measured on: {machine()}")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = stack.enter_context(upstream())
        config = CONFIG.format(upstream=direct.url.split(":")[2].split("/")[0])
        bare = stack.enter_context(relay(direct))
        ours = stack.enter_context(proxy(directory, config))
        targets = [direct, bare, ours]
        idle = resident_mb(ours.pid or 0)
        work = {"rounds": args.rounds, "seconds": args.seconds}
        table(
            "32 connections, plain answers", in_turns(targets, connections=32, stream=False, **work), "relay"
        )
        table(
            "32 connections, streams of 51 chunks",
            in_turns(targets, connections=32, stream=True, **work),
            "relay",
        )
        table("1 connection, plain answers", in_turns(targets, connections=1, stream=False, **work), "relay")
        print(f"\nResident memory: {idle:.0f} MB idle, {resident_mb(ours.pid or 0):.0f} MB after all of this")


if __name__ == "__main__":
    sys.exit(main())
