"""Several serving processes on one port and one database: a parent that starts them, and starts dead ones again.

The kernel spreads connections over the sockets of one port (SO_REUSEPORT). The parent accepts none: it reserves the
port, passes signals on, and writes the lines of all processes to its stdout, each whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from codellama_proxy.config.settings import Settings
from codellama_proxy.store.errors import StoreError

NUMBER, FOLDER = "CODELLAMA_PROXY_WORKER", "CODELLAMA_PROXY_WORKER_FOLDER"
"""Variables with which the parent tells a process which one it is."""
POLL_SECONDS = 0.05
FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.5, 30.0
"""Before a process that ended is started again."""
LONG_SECONDS = 60.0
"""A process that ran this long is started again without delay."""
READ_BYTES = 1 << 16


class Sibling(NamedTuple):
    """This process among those of one parent."""

    number: int
    folder: Path
    """For sockets; only the processes of this parent can enter it."""


def this_sibling(environ: Mapping[str, str] = os.environ) -> Sibling | None:
    """Which one this process is; `None` if it was not started by a parent of this module."""
    number, folder = environ.get(NUMBER), environ.get(FOLDER)
    return Sibling(int(number), Path(folder)) if number and folder else None


def stop_signals() -> list[signal.Signals]:
    """The signals that end a server in order: also the end of its terminal, unless `nohup` says to ignore that."""
    found = [signal.SIGTERM, signal.SIGINT]
    return found if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*found, signal.SIGHUP]


def end_with_parent() -> None:
    """Begin to shut down when the parent ends, however it ends: its end of the pipe at stdin is closed then."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def supervise(settings: Settings, log_format: str, command: list[str]) -> int:
    """Run `settings.workers` processes until a signal; returns the exit code. Raises `StoreError` and `OSError`."""
    if isinstance(settings.location, Path):
        raise StoreError(
            "several workers need a database server: set PROXY_DATABASE to a postgresql:// address"
        )
    with (
        reserved(settings.host, settings.port) as port,
        tempfile.TemporaryDirectory(prefix="codellama-proxy-") as folder,
    ):
        parent = Parent(command, _environment(settings, port, log_format, folder))
        return parent.run(settings.workers)


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Keep a port for the processes; yields its number. Raises `OSError` if another program has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        port = probe.getsockname()[1]
    with socket.socket(family, socket.SOCK_STREAM) as sock:  # bound without listening: it gets no connection
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        yield port


def _environment(settings: Settings, port: int, log_format: str, folder: str) -> dict[str, str]:
    """The settings as variables: arguments would be visible to other users."""
    given = {
        "PROXY_CONFIG": str(settings.config),
        "PROXY_DATABASE": settings.database,
        "PROXY_HOST": settings.host,
        "PROXY_PORT": str(port),
        "PROXY_ON_INVALID": settings.on_invalid,
        "PROXY_LOG_LEVEL": settings.log_level,
        "PROXY_LOG_FORMAT": log_format,
        "PROXY_WORKERS": "1",
        FOLDER: folder,
    }
    return {**os.environ, **given}


@dataclass(slots=True)
class _Process:
    number: int
    popen: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay: float = 0.0
    due: float = 0.0


@dataclass(slots=True)
class Parent:
    """Starts the processes and passes signals on."""

    command: list[str]
    environment: Mapping[str, str]
    _processes: list[_Process] = field(default_factory=list)
    _signals: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _failed: int = 0

    def run(self, count: int) -> int:
        self._processes = [_Process(number) for number in range(count)]
        for number in stop_signals():
            signal.signal(number, self._on_signal)
        passed = 0
        while True:
            if self._signals > passed:
                passed = self._signals
                self._terminate()
            if not self._look_after(stopping=bool(passed)) and passed:
                return 1 if self._failed else 0
            time.sleep(POLL_SECONDS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _terminate(self) -> None:
        for process in self._processes:
            if process.popen is not None and process.popen.poll() is None:
                process.popen.terminate()

    def _look_after(self, *, stopping: bool) -> bool:
        """Start what has to be started; returns whether any process runs."""
        now = time.monotonic()
        for process in self._processes:
            if process.popen is not None and process.popen.poll() is not None:
                self._ended(process, now, stopping)
            if process.popen is None and not stopping and now >= process.due:
                self._start(process, now)
        return any(process.popen is not None for process in self._processes)

    def _ended(self, process: _Process, now: float, stopping: bool) -> None:
        assert process.popen is not None
        code = process.popen.returncode
        if process.popen.stdin is not None:
            process.popen.stdin.close()
        process.popen = None
        if stopping:
            self._failed += code != 0
            return
        if now - process.started >= LONG_SECONDS:
            process.delay = 0.0
        process.due = now + process.delay
        self._say(
            f"worker {process.number} ended ({_described(code)}); starting it again in {process.delay:g} s"
        )
        process.delay = min(max(process.delay * 2, FIRST_DELAY_SECONDS), MAX_DELAY_SECONDS)

    def _start(self, process: _Process, now: float) -> None:
        process.started = now
        process.popen = subprocess.Popen(  # noqa: S603 - this program again
            self.command,
            env={**self.environment, NUMBER: str(process.number)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent only
        )
        assert process.popen.stdout is not None
        threading.Thread(target=self._pass_on, args=(process.popen.stdout.fileno(),), daemon=True).start()

    def _pass_on(self, source: int) -> None:
        """Write whole lines only, so that those of two processes do not mix."""
        rest = b""
        while True:
            try:
                data = os.read(source, READ_BYTES)
            except OSError:
                data = b""
            lines, end, rest = (
                (rest + data).rpartition(b"\n") if data else (rest, b"\n" if rest else b"", b"")
            )
            with self._lock, contextlib.suppress(OSError):
                _write(lines + end)
            if not data:
                return

    def _say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _described(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
