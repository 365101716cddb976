"""Starting what is measured: each process pinned to a core, on a free port, ended at the end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, LOAD_CORE = 0, 1
PATIENCE = 90.0
"""Seconds until a process that does not come up is given up."""


class NotUp(Exception):  # noqa: N818 - a state, not a mistake
    """A process ended at once, or never became ready; the message says where it tells why."""


@dataclass(frozen=True)
class Running:
    pid: int
    seconds: float
    """From the start of the process until it was ready."""


def aside() -> None:
    """Keeps this process, which asks and waits, off the server's core."""
    os.sched_setaffinity(0, {LOAD_CORE})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


@contextlib.contextmanager
def running(
    command: Sequence[str],
    core: int | str,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Running]:
    """The process, once it is ready. `core`: its number, or a list as `taskset` takes it."""
    started = time.monotonic()
    with (log or Path(os.devnull)).open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        while not ready():
            if process.poll() is not None or time.monotonic() > started + PATIENCE:
                raise NotUp(f"{command[0]} did not come up; {_last_lines(log)}")
            time.sleep(0.005)
        yield Running(process.pid, time.monotonic() - started)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        process.kill()
        process.wait()


def _last_lines(log: Path | None) -> str:
    lines = log.read_text("utf-8", "replace").splitlines() if log else []
    return "its last words: " + " / ".join(lines[-3:]) if lines else "it said nothing"


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *(str(argument) for argument in arguments)]


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def resident_mb(pid: int) -> float:
    """Resident memory of the process and its descendants, MB."""
    return sum(_resident_kb(one) for one in family(pid)) / 1000


def _resident_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of the process and its descendants."""
    ticks = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
