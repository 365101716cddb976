"""Python calls that the real server makes for one request: unlike times, the same on every machine.

    python -m bench.calls [--requests 200]

Counts the calls on the event loop's thread, with the cache off and with misses of it, for plain and streamed answers.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from bench.load import chat
from bench.processes import SERVER_CORE, aside, free_port, python, running
from bench.tables import table
from bench.targets import PATH, Target, ask, at, command, config, new_key, upstream
from codellama_proxy.__main__ import main as serve

COUNT_FILE = "BENCH_COUNT_FILE"
"""The environment variable that names the file into which a counting server writes its count on SIGUSR1."""
WARM_UP = 20
"""Requests before the first count."""


def counting_server(arguments: list[str]) -> int:
    """The `codellama-proxy` command, counting the Python calls of its main thread."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if event == "call":
            calls += 1

    def tell(number: int, frame: FrameType | None) -> None:
        path = Path(os.environ[COUNT_FILE])
        part = path.with_suffix(".part")
        part.write_text(str(calls))
        part.replace(path)

    signal.signal(signal.SIGUSR1, tell)
    sys.setprofile(count)
    return serve(arguments)


def counted(pid: int, path: Path) -> int:
    """Calls so far."""
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    while not path.exists():
        time.sleep(0.01)
    return int(path.read_text())


def calls_per_request(cache: str, *, stream: bool, requests: int) -> float:
    """Python calls of one request on a connection that is kept alive; no two requests are the same."""
    with tempfile.TemporaryDirectory() as name, upstream() as instant:
        directory, port = Path(name), free_port()
        target = Target("proxy", at(port), new_key(directory))
        _, _, _, *arguments = command(directory, config(instant, cache=cache), port)
        path = directory / "count"
        counting = python("bench.calls", "--serve", *arguments)
        env = {COUNT_FILE: str(path)}
        with running(counting, SERVER_CORE, lambda: ask(target)[0] == 200, env, directory / "log") as server:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            bodies = _bodies(stream=stream)
            for _ in range(WARM_UP):
                _ask(connection, target, next(bodies))
            before = counted(server.pid, path)
            for _ in range(requests):
                _ask(connection, target, next(bodies))
            after = counted(server.pid, path)
            connection.close()
            return (after - before) / requests


def _bodies(*, stream: bool) -> Iterator[bytes]:
    seed = 0
    while True:
        seed += 1
        yield chat(stream=stream, fields=f'{{"seed": {seed}}}')


def _ask(connection: http.client.HTTPConnection, target: Target, body: bytes) -> None:
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    connection.request("POST", PATH, body, headers)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    args = parser.parse_args()
    aside()
    rows = [
        [
            name,
            *[
                f"{calls_per_request(cache, stream=stream, requests=args.requests):.0f}"
                for cache in ("{enabled: false}", "{enabled: true}")
            ],
        ]
        for name, stream in (("plain", False), ("stream", True))
    ]
    print(table(["Python calls", "cache off", "cache on"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        sys.exit(counting_server(sys.argv[2:]))
    main()
