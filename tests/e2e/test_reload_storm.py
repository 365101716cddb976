"""Two hundred reloads, half of them of broken files, while streams of each API run: no request fails."""

from __future__ import annotations

import functools
import gc
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.dialects.loopback import Server
from tests.support.dialects.native_server import native_server
from tests.support.processes import until
from tests.support.proxy_process import Proxy, config
from tests.support.upstream.process import Upstream

RELOADS = 200
MESSAGES = [{"role": "user", "content": "hi"}]
STREAMS = (
    ("chat/completions", {"messages": MESSAGES}, "data: [DONE]\n\n"),
    ("messages", {"messages": MESSAGES, "max_tokens": 100}, 'data: {"type":"message_stop"}\n\n'),
    ("responses", {"input": "hi"}, ""),
    ("chat/completions", {"messages": MESSAGES}, "data: [DONE]\n\n"),
    (
        "messages",
        {"model": "claude", "messages": MESSAGES, "max_tokens": 5000},
        'data: {"type":"message_stop"}\n\n',
    ),
    ("responses", {"model": "gpt", "input": "hi"}, ""),
)
"""Endpoint, body, and how a complete stream ends."""
PAUSE_SECONDS = 0.02
SETTLED = 50
"""Reloads after which nothing may grow any more."""
WINDOW = 50
"""Reloads over which the lowest figure is taken: a leak raises it, connections that come and go do not."""


class FastReloadProxy(Proxy):
    def command(self) -> list[str]:
        return [
            part.replace("codellama_proxy", "tests.support.fast_reload_server") for part in super().command()
        ]


class Streaming(threading.Thread):
    """Asks for one stream after another, and counts what was not whole."""

    def __init__(self, served: Proxy, endpoint: str, body: Mapping[str, Any], end: str) -> None:
        super().__init__(daemon=True)
        self._served = served
        self._path = f"/v1/{endpoint}"
        self._body = {"model": "steady", "stream": True, **body}
        self._end = end
        self._stop_asking = threading.Event()
        self.whole = 0
        self.broken: list[str] = []

    def run(self) -> None:
        while not self._stop_asking.wait(PAUSE_SECONDS):
            try:
                answer = self._served.client.post(self._path, json=self._body, headers=self._served.auth)
            except Exception as error:
                self.broken.append(repr(error))
                return
            if answer.status_code == 200 and answer.text.endswith(self._end):
                self.whole += 1
            else:
                self.broken.append(answer.text)

    def finish(self) -> None:
        self._stop_asking.set()
        self.join(20)


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def opened(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def state(served: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = served.client.get("/health/readiness").json()["config"]
    return found


def refused(now: dict[str, Any]) -> bool:
    return now["error"] is not None


def replaced(before: str, now: dict[str, Any]) -> bool:
    return now["digest"] != before and now["error"] is None


@pytest.fixture
def vendors() -> Iterator[Server]:
    with native_server() as one:
        yield one


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process holds")
@pytest.mark.timeout(170)
def test_many_reloads_fail_no_request_and_leak_no_memory_or_descriptor(
    tmp_path: Path, upstream: Upstream, vendors: Server
) -> None:
    def relay(name: str, provider: str, model: str, key: str) -> dict[str, Any]:
        place = {"base_url": f"{vendors.url}/v1", "api_key": key}
        return {"name": name, "provider": provider, "model": model, "fallbacks": [], **place}

    def good(number: int) -> str:
        key = f"sk-upstream-secret-{number % 3}"  # another key is another pool of connections
        return config(
            upstream.model("steady", "tokens=30;every=0.003", api_key=key, weight=number + 1),
            upstream.model(f"m{number}"),
            relay("claude", "anthropic", "claude-opus-5-5", key),
            relay("gpt", "openai", "gpt-5.5", key),
        )

    path = tmp_path / "proxy.yaml"
    path.write_text(good(0))
    served = FastReloadProxy(path, tmp_path / "proxy.db", tmp_path / "log").start()
    streams = [Streaming(served, *one) for one in STREAMS]
    held: list[tuple[int, int]] = []
    try:
        for one in streams:
            one.start()
        for number in range(RELOADS):
            text, broken = good(number + 1), number % 2 == 1
            before = state(served)["digest"]
            path.write_text(text[: len(text) // 2] if broken else text)
            seen = refused if broken else functools.partial(replaced, before)
            until(lambda seen=seen: seen(state(served)), f"reload {number}")  # type: ignore[misc]
            held.append((resident(served.pid), opened(served.pid)))
    finally:
        for one in streams:
            one.finish()
        served.stop()
        gc.collect()
    assert [one.broken for one in streams] == [[]] * len(STREAMS)
    assert sum(one.whole for one in streams) > 50
    assert all(one.whole for one in streams)
    early, late = held[SETTLED:][:WINDOW], held[-WINDOW:]
    assert min(memory for memory, _ in late) - min(memory for memory, _ in early) < 8_000_000
    # Each stream may have a connection more in one window than in the other. A leak adds one for each reload.
    assert min(files for _, files in late) <= min(files for _, files in early) + len(STREAMS)
    assert not served.complaints()
    told = [line for line in served.log_lines() if str(line["message"]).startswith("configuration reloaded")]
    assert len(told) == RELOADS // 2
    assert "sk-upstream-secret" not in json.dumps(told)
