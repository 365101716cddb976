"""Waiting for processes, ending them, and the environment they get: always bounded in time."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent

T = TypeVar("T")


def until(probe: Callable[[], T | None], what: str, *, within: float = 5.0) -> T:
    """The first truthy value of `probe`, asked again and again."""
    deadline = time.monotonic() + within
    while True:
        if found := probe():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def end(process: subprocess.Popen[Any], *, within: float = 10.0) -> int:
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
