"""The `codellama-proxy` command with a sampler of the event loop's thread, by the processor time of that thread.

    BENCH_SAMPLE_FILE=FILE python -m bench.sampler serve ...

On SIGUSR1 it writes to FILE, as JSON, the stacks since the last time with how often each was seen, and the names of
its threads by their ids; then it starts anew. Linux only.
"""

from __future__ import annotations

import collections
import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from codellama_proxy.__main__ import main as serve

SAMPLE_FILE = "BENCH_SAMPLE_FILE"
INTERVAL_NS = 1_000_000
"""Between samples; the kernel may make it as long as a tick of its clock (4 ms)."""
PACKAGE = "codellama_proxy/"
THREAD_CPU_CLOCK = 3
SIGNAL_ONE_THREAD = 4

Stack = tuple[tuple[str, str], ...]
"""Files and qualified names of functions, the innermost first."""


class _Event(ctypes.Structure):
    """`struct sigevent` of the C library."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_char * 44),
    )


class _Interval(ctypes.Structure):
    """`struct itimerspec` of the C library."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


def start_timer() -> None:
    """Send SIGPROF to this thread at intervals of its own processor time."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "timer_create"):
        library = ctypes.CDLL("librt.so.1", use_errno=True)
    event = _Event(signal=signal.SIGPROF, notify=SIGNAL_ONE_THREAD, thread=threading.get_native_id())
    timer = ctypes.c_void_p()
    interval = _Interval(0, INTERVAL_NS, 0, INTERVAL_NS)
    if library.timer_create(THREAD_CPU_CLOCK, ctypes.byref(event), ctypes.byref(timer)) or (
        library.timer_settime(timer, 0, ctypes.byref(interval), None)
    ):
        raise OSError(ctypes.get_errno(), "there is no timer of a thread's processor time")


def stack_of(frame: FrameType | None) -> Stack:
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_qualname))
        frame = frame.f_back
    return tuple(found)


def sampling_server(arguments: list[str]) -> int:
    """The command, sampled; its exit code."""
    stacks: collections.Counter[Stack] = collections.Counter()

    def sample(number: int, frame: FrameType | None) -> None:
        stacks[stack_of(frame)] += 1

    def tell(number: int, frame: FrameType | None) -> None:
        threads = {thread.native_id: thread.name for thread in threading.enumerate()}
        path = Path(os.environ[SAMPLE_FILE])
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"stacks": list(stacks.items()), "threads": threads}))
        part.replace(path)
        stacks.clear()

    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR1, tell)
    start_timer()
    return serve(arguments)


def samples(pid: int, path: Path) -> tuple[list[tuple[Stack, int]], dict[int, str]]:
    """What the server `pid` noted since the last call, and its threads."""
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    while not path.exists():
        time.sleep(0.01)
    told = json.loads(path.read_text())
    stacks = [(tuple((file, name) for file, name in stack), count) for stack, count in told["stacks"]]
    return stacks, {int(number): name for number, name in told["threads"].items()}


if __name__ == "__main__":
    sys.exit(sampling_server(sys.argv[1:]))
