"""The soak: faults and disconnects for a while, then whatever has grown is named.

    python -m bench.soak [SECONDS] [--clients 24]

The real command between a scripted upstream and clients of which one in three leaves early. Four times the traffic
pauses, and memory, file descriptors, tasks and upstream connections are read. Prints a table; exits with 1 when
something grew, something is still held, or the log complains.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.processes import resident_mb
from codellama_proxy import __main__ as command
from codellama_proxy.upstream.connection import Connection
from codellama_proxy.upstream.transport import HttpTransport
from tests.support.processes import ROOT, until
from tests.support.proxy_process import Proxy, config, proxies
from tests.support.raw_http import request
from tests.support.upstream.process import Upstream

STATE = "SOAK_STATE"
ROUNDS = 4
LEAVE = 0.33
"""The share of clients that do not wait for the end of their answer."""
SCRIPTS = {
    "good": "ok",
    "slow": "every=0.01",
    "long": "tokens=200",
    "rough": "status=500|ok|status=503|drop|ok|html|reset|ok",
    "busy": "status=429;retry_after_ms=20|ok|ok",
    "cut": "cut=3;every=0.005|ok",
    "broken": "error_event_after=2;every=0.005|ok",
    "empty": "empty|ok",
    "stalled": "stall=2;every=0.005|ok",
    "hanging": "hang|ok|ok",
    "bomb": "gzip_bomb|ok",
    "closing": "close",
    "fickle": "then_close=0.01",
    "uncounted": "no_usage",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server holds while nobody asks it anything."""

    memory_mb: float
    descriptors: int
    """Without idle connections to upstreams, which time out by themselves."""
    tasks: int
    connections: int
    """To upstreams, in use."""


# --- inside the server -----------------------------------------------------------------------------------------


def report(path: Path) -> None:
    """Counts what only the process itself can see, again and again."""
    while True:
        found = gc.get_objects()
        connections = [one for one in found if type(one) is Connection and not one.transport.is_closing()]
        idle = sum(len(kept) for one in found if type(one) is HttpTransport for kept in one._idle.values())
        tasks = sum(1 for one in found if type(one) is asyncio.Task and not one.done())
        del found
        shown = {
            "at": time.monotonic(),
            "tasks": tasks,
            "in_use": len(connections) - idle,
            "idle": idle,
        }
        path.with_suffix(".new").write_text(json.dumps(shown))
        path.with_suffix(".new").replace(path)
        time.sleep(0.3)


def serve() -> int:
    threading.Thread(target=report, args=(Path(os.environ[STATE]),), daemon=True).start()
    return command.main()


# --- outside -----------------------------------------------------------------------------------------------------


def reading(served: Proxy, state: Path) -> Reading:
    """A reading of a server that has come to rest."""
    until(lambda: served.admin("GET", "/health").json()["running"] == 0, "rest", within=20)
    until(lambda: not served.rows(status="held"), "settled books", within=20)
    gathered = time.monotonic() + 1.0  # the last sockets close a moment after their requests end
    until(lambda: json.loads(state.read_text())["at"] > gathered, "a count", within=10)
    inside: Mapping[str, Any] = json.loads(state.read_text())
    descriptors = len(list(Path(f"/proc/{served.pid}/fd").iterdir()))
    return Reading(resident_mb(served.pid), descriptors - inside["idle"], inside["tasks"], inside["in_use"])


async def client(served: Proxy, dice: random.Random, end: float, seen: Counter[str]) -> None:
    while time.monotonic() < end:
        body = {
            "model": dice.choice(list(SCRIPTS)),
            "stream": dice.random() < 0.6,
            "messages": [{"role": "user", "content": "hi " * dice.randrange(1, 200)}],
        }
        data = request("/v1/chat/completions", body, connection="close", **served.auth)
        patience = dice.random() * 0.1 if dice.random() < LEAVE else 20.0
        seen[await ask(served.port, data, patience)] += 1


async def ask(port: int, data: bytes, patience: float) -> str:
    """The status of the answer, or how it came to none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(patience):
            writer.write(data)
            received = await reader.read()
        return received[9:12].decode() or "closed"
    except TimeoutError:
        return "left"
    except ConnectionError:
        return "reset"
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def traffic(served: Proxy, seconds: float, clients: int, seed: int, seen: Counter[str]) -> None:
    end = time.monotonic() + seconds
    dice = [random.Random(seed * 1000 + number) for number in range(clients)]
    await asyncio.gather(*(client(served, one, end, seen) for one in dice))


def setting(upstream: Upstream) -> str:
    timeouts = {"first_token": "300ms", "idle": "300ms", "answer": "500ms"}
    models = [
        upstream.model(name, script, timeouts=timeouts, fallbacks=[] if name == "good" else ["good"])
        for name, script in SCRIPTS.items()
    ]
    return config(*models, routing={"cooldown": {"failures": 5, "time": "200ms", "max_time": "1s"}})


def grown(before: Reading, after: Reading) -> list[str]:
    """What became more, beyond what allocators and chance may add."""
    bounds = {
        "memory_mb": before.memory_mb * 1.1 + 8,
        "descriptors": before.descriptors + 3,
        "tasks": before.tasks + 1,
        "connections": 0,
    }
    return [name for name, value in asdict(after).items() if value > bounds[name]]


def soak(seconds: float, clients: int) -> int:
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        directory, state = Path(name), Path(name) / "state"
        upstream = Upstream(directory / "upstream")
        try:
            with proxies(directory / "proxy") as start:
                env = {"PYTHONPATH": str(ROOT), STATE: str(state)}
                served = start(setting(upstream), module="bench.soak", env=env)
                until(state.exists, "the first count")
                readings = [reading(served, state)]
                for round_ in range(ROUNDS):
                    asyncio.run(traffic(served, seconds / ROUNDS, clients, round_, seen))
                    readings.append(reading(served, state))
        finally:
            upstream.stop()
    show(readings, seen)
    # The first round fills what is meant to stay: modules, vocabularies, caches, pools.
    guilty = grown(readings[1], readings[-1]) + (["answers with 500"] if seen["500"] else [])
    sys.stdout.write(f"grown: {', '.join(guilty) or 'nothing'}\n")
    return 1 if guilty else 0


def show(readings: list[Reading], seen: Counter[str]) -> None:
    names = list(asdict(readings[0]))
    lines = ["  ".join(f"{name:>12}" for name in ("after", *names))]
    for number, one in enumerate(readings):
        values = (
            f"{value:>12.1f}" if name == "memory_mb" else f"{value:>12}"
            for name, value in asdict(one).items()
        )
        lines.append("  ".join([f"{f'round {number}' if number else 'start':>12}", *values]))
    ends = ", ".join(f"{how}: {count}" for how, count in sorted(seen.items()))
    sys.stdout.write("\n".join([*lines, f"{seen.total()} requests ({ends})", ""]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        sys.exit(serve())
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=60)
    parser.add_argument("--clients", type=int, default=24)
    arguments = parser.parse_args()
    sys.exit(soak(arguments.seconds, arguments.clients))
