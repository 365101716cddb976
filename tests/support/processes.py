"""Waiting for processes, ending them, and the environment they get: always bounded in time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

ROOT = Path(__file__).parents[2]

PORTS = range(12_000, 32_000)
"""Below those that kernels give to clients and to whoever asks for any port."""
EACH = 500
"""Ports between the first ones of two workers."""

LOOPBACK: dict[str, Any] = {"trust_env": False, "verify": False}
"""How `httpx2` reaches plain HTTP on loopback: without proxies, and without loading certificates for 40 ms."""

T = TypeVar("T")


class Process(Protocol):
    """What `subprocess.Popen` and `ForkedProcess` have in common."""

    args: Any
    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


def until(probe: Callable[[], T | None], what: str, *, within: float = 20.0) -> T:
    """The first truthy value of `probe`, asked again and again."""
    deadline = time.monotonic() + within
    while True:
        if found := probe():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.01)


def free_port() -> int:
    """A port that no other test, of this run or of one beside it, is given while this process lives."""
    for _ in PORTS:
        port = next(_turns)
        with contextlib.suppress(OSError):
            _claims.append(_claim(port))
            return port
    raise AssertionError(f"no port is free in {PORTS}")


def _claim(port: int) -> socket.socket:
    """Holding the UDP port of a number says that its TCP port is spoken for; the kernel forgets it with us."""
    claim = socket.socket(type=socket.SOCK_DGRAM)
    try:
        claim.bind(("127.0.0.1", port))
        with socket.socket() as tcp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        raise
    return claim


def _from_our_own() -> Iterator[int]:
    """All ports, again and again, beginning with those that only this worker begins with."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = worker * EACH % len(PORTS)
    return itertools.cycle([*PORTS[begin:], *PORTS[:begin]])


_claims: list[socket.socket] = []
_turns = _from_our_own()


def journal(path: Path, begin: int) -> list[dict[str, Any]]:
    """The JSON lines of a file from a place on, without one that is still being written."""
    with path.open(encoding="utf-8") as file:
        file.seek(begin)
        whole = file.read().rpartition("\n")[0]  # at once: a loop would go on with the rest of a half line
    return [json.loads(line) for line in whole.split("\n") if line]


def end(process: Process, *, within: float = 30.0) -> int:
    """Waits for a process that was told to stop; one that will not is killed, and that is a failure."""
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(within)
        raise AssertionError(f"{process.args!r} did not stop within {within} s") from None


def environment(**more: str) -> dict[str, str]:
    """The environment of the commands: ours, without what would leak into the proxy."""
    leaks = ("PROXY_", "OPENAI_", "ANTHROPIC_", "TOGETHER_", "PROMPTLAYER_", "HTTP_PROXY", "http_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leaks)}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}
