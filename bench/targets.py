"""What is measured: an instant upstream, a bare relay to it, and the proxy with everything on."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.load import chat
from bench.processes import (
    LOAD_CORE,
    SERVER_CORE,
    Running,
    free_port,
    listening,
    python,
    resident_mb,
    running,
)

PATH = "/v1/chat/completions"
CONFIG = """
models:
  - name: bench
    provider: openai_compatible
    model: instant
    base_url: http://127.0.0.1:{upstream}/v1
    price: {{input: 1, output: 2}}
{models}
guardrail: {{system_prompt: "Only respond to questions about code."}}
cache: {cache}
limits:
  global: {{max_parallel_requests: 5000, rpm_limit: 100000000}}
  project: {{rpm_limit: 100000000, max_budget: 100000, budget_duration: month}}
  key: {{rpm_limit: 100000000}}
routing: {routing}
server: {{max_parallel_requests: 5000}}
"""


@dataclass(frozen=True)
class Target:
    name: str
    url: str
    key: str = "none"
    pid: int | None = None
    fields: str = "{}"
    """More for the body of each request, as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    unique: bool = False
    """Each request has another prompt, so that nothing is answered from a cache."""
    start_s: float = 0.0
    """From the start of the process until its first 200."""
    idle_mb: float = 0.0
    """Resident then."""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}{PATH}"


def ask(target: Target, *, stream: bool = False) -> tuple[int, bytes]:
    """One request, apart from any load: status and body; 0 if nobody answers."""
    headers = {
        "authorization": f"Bearer {target.key}",
        "content-type": "application/json",
        **target.headers,
    }
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    try:
        connection.request("POST", PATH, chat(stream=stream, fields=target.fields), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


@contextlib.contextmanager
def serving(
    target: Target,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Target]:
    """The target, once it has answered a request."""
    with running(command, SERVER_CORE, lambda: ask(target)[0] == 200, env, log) as process:
        yield replace(target, pid=process.pid, start_s=process.seconds, idle_mb=resident_mb(process.pid))


@contextlib.contextmanager
def upstream() -> Iterator[Target]:
    """Shares its core with the load: the server has the other to itself."""
    port = free_port()
    with running(python("bench.instant", port), LOAD_CORE, lambda: listening(port)):
        yield Target("direct", at(port))


@contextlib.contextmanager
def relay(to: Target, name: str = "relay", *options: str) -> Iterator[Target]:
    port = free_port()
    with serving(Target(name, at(port)), python("bench.relay", port, to.url, *options)) as target:
        yield target


def config(to: Target, *, models: str = "", cache: str = "{enabled: false}", routing: str = "{}") -> str:
    """A proxy.yaml with everything on; more entries for `models:` if given."""
    return CONFIG.format(upstream=to.port, models=models, cache=cache, routing=routing)


@contextlib.contextmanager
def proxy(
    directory: Path,
    text: str,
    name: str = "proxy",
    key: str | None = None,
    *,
    unique: bool = False,
    env: Mapping[str, str] | None = None,
) -> Iterator[Target]:
    """The real command on a database in `directory`; with a new key of its own unless one is given."""
    port = free_port()
    target = Target(name, at(port), key or new_key(directory), unique=unique)
    with serving(target, command(directory, text, port), env, directory / "log") as started:
        yield started


def new_key(directory: Path, address: str | None = None) -> str:
    """Of the database in a directory, or at an address."""
    at = address or str(database(directory))
    create = ["scripts/keys.py", "create", "default", "--json", "--database", at]
    made = subprocess.run([sys.executable, *create], capture_output=True, check=True)
    return str(json.loads(made.stdout)["key"])


def database(directory: Path) -> Path:
    return directory / "proxy.db"


def command(directory: Path, text: str, port: int) -> list[str]:
    """What serves `text` as its configuration from `directory`."""
    path = directory / "proxy.yaml"
    path.write_text(text)
    options = {"--config": path, "--database": database(directory), "--port": port}
    return python("codellama_proxy", "serve", *(part for pair in options.items() for part in pair))


@contextlib.contextmanager
def ready(directory: Path, text: str) -> Iterator[Running]:
    """The real command, once its readiness says so: what a load balancer waits for."""
    port = free_port()
    with running(command(directory, text, port), SERVER_CORE, lambda: is_ready(port)) as process:
        yield process


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/readiness")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
