"""Starting and stopping the real command: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.processes import ROOT, end, environment, free_port, until
from tests.support.proxy_process import ProxyFactory, config
from tests.support.raw_http import Wire, exchange, request
from tests.support.upstream.process import Upstream

MOCK = {"name": "mock", "provider": "mock", "fallback": False}


@pytest.fixture
def proxy(proxy: ProxyFactory) -> ProxyFactory:
    """Starts each server with a new interpreter instead of forking."""
    return partial(proxy, launch=subprocess.Popen)


def command(directory: Path, port: int) -> list[str]:
    options = {"--config": directory / "proxy.yaml", "--database": directory / "proxy.db", "--port": port}
    pairs = [str(part) for pair in options.items() for part in pair]
    return [sys.executable, "-m", "codellama_proxy", "serve", *pairs]


@contextlib.contextmanager
def serving(directory: Path, text: str, port: int, **env: str) -> Iterator[Path]:
    """A server that is nobody's yet: no key was made. Yields its log."""
    (directory / "proxy.yaml").write_text(text)
    log = directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(directory, port),
            cwd=directory,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: ready(port) or process.poll() is not None, "the server is ready", within=60)
            yield log
        finally:
            process.terminate()
            end(process)


def ready(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        return exchange(port, request("/health/readiness", method="GET")).status == 200
    return False


def refused(directory: Path, **env: str) -> tuple[int, str]:
    """Starts a server that must not start: its exit code and what it said.

    Its port is taken, so a server that binds before it has looked at everything else complains of the wrong thing.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            command(directory, taken.getsockname()[1]),
            cwd=directory,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    return done.returncode, output


@contextlib.contextmanager
def on_a_terminal(directory: Path, port: int) -> Iterator[int]:
    """The server with a terminal on stdout; yields the terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(directory, port), cwd=directory, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        until(lambda: ready(port), "the server is ready", within=60)
        yield ours
    finally:
        process.terminate()
        end(process)
        os.close(ours)


def read(terminal: int) -> str:
    """What the terminal shows by now."""
    shown = b""
    while select.select([terminal], [], [], 0.3)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    return shown.decode()


def test_the_first_start_on_a_terminal_prints_a_key_and_a_curl_command(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(config(MOCK))
    port = free_port()
    with on_a_terminal(tmp_path, port) as terminal:
        shown = read(terminal)
        secrets = set(re.findall(r"sk-[A-Za-z0-9_-]{40,}", shown))
        assert len(secrets) == 1, shown
        assert "default" in shown
        pasted = shown[shown.index("curl ") :].replace("\r\n", "\n")
        pasted = re.sub(r"\\\n", " ", pasted).split("\n")[0]
        done = subprocess.run(
            ["sh", "-c", pasted], capture_output=True, text=True, timeout=10, check=True, env=environment()
        )
        assert json.loads(done.stdout[done.stdout.index("{") :])["choices"]
    with on_a_terminal(tmp_path, port) as terminal:
        shown = read(terminal)
        assert not re.findall(r"sk-[A-Za-z0-9_-]{40,}", shown), "only once"
    assert f"Base URL for clients: http://127.0.0.1:{port}/v1" in shown
    (create,) = re.findall(r"1 key exists\. Create another: (.+?)\r?\n", shown)
    command = [sys.executable, *shlex.split(create)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=environment())
    assert done.stdout.startswith("sk-")


@pytest.mark.one_process("it looks at, or stops, one process")
def test_without_a_terminal_the_start_logs_how_to_create_a_key_the_models_and_the_database(
    tmp_path: Path,
) -> None:
    keyless = {"name": "gpt-4", "provider": "openai", "model": "gpt-4.1", "api_key": "${OPENAI_API_KEY}"}
    with serving(tmp_path, config(keyless, MOCK), free_port()) as log:
        code, second = refused(tmp_path)
    assert code != 0, "a second server on the same database"
    assert "proxy.db" in second
    output = log.read_text()
    assert "keys.py create" in output
    assert not re.findall(r"sk-[A-Za-z0-9_-]{40,}", output), "no secret into a log file"
    assert re.search(r"gpt-4\b.*OPENAI_API_KEY", output), "what is disabled, and why"
    assert re.search(r"No provider.*mock", output), "what answers instead"
    assert "Traceback" not in output


def test_the_shipped_configuration_starts_with_the_mock(proxy: ProxyFactory) -> None:
    served = proxy((ROOT / "proxy.yaml").read_text())
    for streamed in (False, True):
        answer = served.chat(stream=streamed)
        assert answer.status_code == 200
        assert answer.headers["x-proxy-model"] == "mock"
        assert "content" in answer.text
    assert served.chat(model="gpt-4").status_code == 404


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:\n  - name: a\n    provider: opnai\n", r"proxy\.yaml:3:\d+: .*openai"),
        ("", r"proxy\.yaml:1:1: .*models"),
    ],
)
def test_an_invalid_file_is_refused_before_the_port_is_bound(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "proxy.yaml").write_text(text)
    code, output = refused(tmp_path)
    assert code == 1
    assert re.search(message, output), output


def test_a_missing_file_is_refused_with_a_message(tmp_path: Path) -> None:
    code, output = refused(tmp_path)
    assert code == 1
    assert "proxy.yaml" in output


def test_a_short_master_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(config(MOCK))
    code, output = refused(tmp_path, PROXY_MASTER_KEY="changeme")
    assert code != 0
    assert "PROXY_MASTER_KEY" in output
    assert "changeme" not in output


def test_a_port_in_use_is_refused_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(config(MOCK))
    code, output = refused(tmp_path)
    assert code != 0
    assert re.search(r"127\.0\.0\.1.*\d{4,5}|port", output), output


def test_check_prints_every_error_with_its_position(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text("models:\n  - name: a\n    provider: opnai\n    wieght: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "codellama_proxy", "check", "proxy.yaml"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"^proxy\.yaml:3:\d+: .*openai", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^proxy\.yaml:4:\d+: .*weight", done.stdout, re.MULTILINE), done.stdout


def test_a_stop_lets_a_stream_finish_and_books_it(proxy: ProxyFactory, upstream: Upstream) -> None:
    served = proxy(config(upstream.model("last-words", "gate=2")))
    body = {"model": "last-words", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with Wire(served.port) as wire:
        wire.send(request("/v1/chat/completions", body, **served.auth))
        lines = wire.lines()
        until(lambda: b"last-words-1" in next(lines), "the tokens before the gate")
        os.kill(served.pid, signal.SIGTERM)
        time.sleep(0.2)  # long enough that a server that would not wait has gone
        upstream.open_gate("last-words")
        rest = b"".join(lines)
    assert rest.endswith(b"data: [DONE]\n\n")
    served.stop()
    served.start()
    (row,) = served.rows()
    assert row["status"] == "ok"
    assert row["basis"] == "exact"


def test_a_server_may_have_no_chat_model(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("vectors", mode="embedding")))
    until(lambda: "No model serves chat" in one.log(), "a word about it")
    assert one.chat().status_code == 404
