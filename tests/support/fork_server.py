"""`python -m tests.support.fork_server FD`: forks commands from an interpreter that has imported the package.

A child is a process as `python -m MODULE ...` or `python SCRIPT ...` starts it, with its own pid, arguments,
environment, directory, streams and exit code. Only the imports are shared. `tests/support/forked.py` is the client.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("codellama_proxy", "tests.support.upstream", "tests.support.promptlayer")
LAZY = ("uvloop", "uvicorn.lifespan.off", "genai_prices", "tiktoken")
"""Modules that the package imports on first use."""
UNSHARED = ("__main__", "otel_exporter")
"""Modules not to preload: they run, or read the environment, when imported."""
MAX_MESSAGE_BYTES = 1 << 17


def preload() -> None:
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(UNSHARED):
                importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread does not survive a fork"
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page


class Children:
    """The running children, each with the pipe its exit code is written to."""

    def __init__(self) -> None:
        self._pipes: dict[int, int] = {}

    def add(self, pid: int, pipe: int) -> None:
        self._pipes[pid] = pipe

    def reap(self) -> None:
        while self._pipes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            pipe = self._pipes.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(pipe)

    def kill(self) -> None:
        for pid in self._pipes:
            os.kill(pid, signal.SIGKILL)
        for pid in self._pipes:
            os.waitpid(pid, 0)

    def forget(self) -> None:
        """Closes the pipes in a child, which has no children."""
        for pipe in self._pipes.values():
            os.close(pipe)


def serve(control: socket.socket) -> dict[str, Any]:
    """Forks on request: returns what to run in each child, and exits when the test process has closed the socket."""
    children = Children()
    died, note = socket.socketpair()
    for one in (died, note):
        one.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the test process, which then closes the socket
    signal.set_wakeup_fd(note.fileno(), warn_on_full_buffer=False)
    while True:
        ready = select.select([control, died], [], [])[0]
        if died in ready:
            died.recv(4096)
            children.reap()
        if control not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 4)
        if not message:
            children.kill()
            sys.exit()
        *streams, pipe = descriptors
        if pid := os.fork():
            children.add(pid, pipe)
            for descriptor in streams:
                os.close(descriptor)
            control.send(str(pid).encode())
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        children.forget()
        for one in (control, died, note):
            one.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(pipe)
        asked: dict[str, Any] = json.loads(message)
        return asked


def become(env: dict[str, str], cwd: str, arguments: list[str]) -> None:
    """Does what `python ARGUMENTS` does; exceptions, including `SystemExit`, end this interpreter as usual."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path[0] = cwd
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    preload()
    become(**serve(socket.socket(fileno=int(sys.argv[1]))))
