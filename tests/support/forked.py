"""Starts commands by forking a process that has imported the package, one per test worker (`fork_server`)."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import IO, Any

from tests.support.processes import ROOT, environment


class ForkedProcess:
    """A command as a process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: IO[Any] | int,
        stderr: IO[Any] | int,
        stdin: IO[Any] | int = subprocess.DEVNULL,
    ) -> None:
        """`args` are those of a new interpreter: `sys.executable`, then `-m MODULE` or a script, and its arguments."""
        assert args[0] == sys.executable, args
        self.args = args
        self.returncode: int | None = None
        self._status, pipe = os.pipe()
        message = dumps({"arguments": list(args[1:]), "cwd": str(cwd), "env": dict(env)}).encode()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, pipe)
            out = _descriptor(stdout, stack)
            streams = [_descriptor(stdin, stack), out]
            streams.append(out if stderr == subprocess.STDOUT else _descriptor(stderr, stack))
            self.pid = _server().fork(message, [*streams, pipe])

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, negative for a signal. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            waiting = select.poll()  # select() refuses descriptors from 1024 on
            waiting.register(self._status, select.POLLIN)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            code = os.read(self._status, 16)
            assert code, "the fork server has ended"
            self.returncode = int(code)
            os.close(self._status)
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    args: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run(args, capture_output=True, text=True)` by forking, with nothing on stdin."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = ForkedProcess(args, cwd=cwd, env=env, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(args, code, out.read().decode(), err.read().decode())


def fork_listener(args: Sequence[str]) -> tuple[ForkedProcess, int]:
    """Starts a server that prints its port as its first line; returns it and the port."""
    read, write = os.pipe()
    with os.fdopen(read) as said:
        try:
            process = ForkedProcess(args, cwd=ROOT, env=environment(), stdout=write, stderr=2)
        finally:
            os.close(write)
        return process, int(said.readline())


def _descriptor(stream: IO[Any] | int, stack: contextlib.ExitStack) -> int:
    if stream == subprocess.DEVNULL:
        return stack.enter_context(Path(os.devnull).open("r+b")).fileno()
    return stream if isinstance(stream, int) else stream.fileno()


class _Server:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
                cwd=ROOT,
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def fork(self, message: bytes, descriptors: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._control, [message], descriptors)
            pid = self._control.recv(16)
        assert pid, "the fork server has ended"
        return int(pid)

    def stop(self) -> None:
        """Ends the server and all running children."""
        self._control.close()
        self._process.wait(10)


@functools.cache
def _server() -> _Server:
    return _Server()


def stop_fork_server() -> None:
    if _server.cache_info().currsize:
        _server().stop()
        _server.cache_clear()
