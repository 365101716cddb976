"""The real server as a process, its proxy.yaml, and keys made by the real commands.

Everything is bounded in time, talks over loopback only, and leaves no process behind.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import httpx2

from tests.support import postgres
from tests.support.forked import ForkedProcess, run_forked
from tests.support.processes import LOOPBACK, Process, end, environment, free_port, until
from tests.support.raw_http import exchange, request

ADMIN = "admin-key-of-the-tests-0123456789"
GUARDRAIL = "Only respond to questions about code. Say 'I don't know' to anything outside of that."


def config(*models: Mapping[str, Any], **sections: Any) -> str:
    """A proxy.yaml (JSON is YAML). Retries and cooldowns are quick, so that no test waits for policy."""
    routing = {"backoff": {"initial": "1ms", "max": "5ms"}, **sections.pop("routing", {})}
    whole = {
        "models": list(models),
        "guardrail": {"system_prompt": GUARDRAIL},
        "routing": routing,
        "cache": {"enabled": False},
        **sections,
    }
    return json.dumps(whole, indent=1)


# --- the server ----------------------------------------------------------------------------------------


def keys(database: Path | str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`scripts/keys.py ...` on a database."""
    command = [sys.executable, "scripts/keys.py", *arguments, "--database", str(database)]
    done = run_forked(command, env=environment())
    assert not check or done.returncode == 0, done.stderr
    return done


def create_key(database: Path | str, project: str = "default", *options: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(keys(database, "create", project, "--json", *options).stdout)
    return made


@dataclass
class Proxy:
    """The real command as a process, on a database file of its own, or on the address of a database server."""

    config_path: Path
    database: Path | str
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    project: str = "default"
    allow: Sequence[str] = ()
    """Words that the log may have though they look bad."""
    module: str = "codellama_proxy"
    """What `python -m` runs: the command, or one that is like it but for its patience."""
    launch: Callable[..., Process] = ForkedProcess
    """How to start it; `subprocess.Popen` starts a new interpreter."""

    key: str = ""
    key_id: str = ""
    port: int = 0
    _process: Process | None = None
    _log: IO[Any] | None = None
    _client: httpx2.Client | None = None

    # starting and stopping

    def start(self) -> Self:
        self.port = free_port()
        self._log = self.log_path.open("ab")
        self._process = self.launch(
            self.command(),
            cwd=self.config_path.parent,
            env=environment(**{"PROXY_MASTER_KEY": ADMIN, "PROXY_LOG_FORMAT": "json", **self.env}),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx2.Client(base_url=self.url, **LOOPBACK, timeout=60)
        until(self._ready, "the server is ready", within=60)
        if not self.key:
            made = self.new_key() if self.env.get("PROXY_MASTER_KEY", ADMIN) else create_key(self.database)
            self.key, self.key_id = made["key"], made["key_id"]
        return self

    def command(self) -> list[str]:
        options = {"--config": self.config_path, "--database": self.database, "--port": self.port}
        pairs = [str(part) for pair in options.items() for part in pair]
        return [sys.executable, "-m", self.module, "serve", *pairs]

    def _ready(self) -> bool:
        self._alive()
        # It says its address once it is bound: before that, a stranger may answer there.
        if f":{self.port} " not in self.log():
            return False
        with contextlib.suppress(ConnectionRefusedError):
            return exchange(self.port, request("/health/readiness", method="GET")).status == 200
        return False

    def _alive(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"the server has ended:\n{self.log()}"

    def stop(self) -> int:
        """SIGTERM, as an operator would."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL, as a crash would."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        if self._client is not None:
            self._client.close()
        if self._process.poll() is None:
            self._process.send_signal(how)
        code = end(self._process, within=30)
        if self._log is not None:
            self._log.close()
        return code

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def save(self, text: str) -> None:
        """A new proxy.yaml, whole at once, the way editors do."""
        draft = self.config_path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.config_path)

    # speaking to it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> httpx2.Client:
        self._alive()
        assert self._client is not None
        return self._client

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def chat(self, body: Mapping[str, Any] | None = None, /, **more: Any) -> httpx2.Response:
        """One chat completion over HTTP; a `prompt` of "hi" unless the body says something."""
        whole = {**(body or {}), **more}
        if not {"messages", "prompt"} & whole.keys():
            whole["messages"] = [{"role": "user", "content": "hi"}]
        return self.client.post("/v1/chat/completions", json=whole, headers=self.auth)

    def admin(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return self.client.request(method, path, headers={"authorization": f"Bearer {ADMIN}"}, **more)

    def new_key(self, project: str | None = None, **fields: Any) -> dict[str, Any]:
        """A key made by the running server."""
        answer = self.admin("POST", "/key/generate", json={"key_alias": project or self.project, **fields})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def rows(self, **filters: Any) -> list[dict[str, Any]]:
        """Rows of the request log, newest first."""
        answer = self.admin("GET", "/spend/logs", params={"size": 1000, **filters})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def settled_rows(self, **filters: Any) -> list[dict[str, Any]]:
        """The same, once none of them is held: on a database server that is some milliseconds after the response."""

        def settled() -> list[list[dict[str, Any]]]:
            found = self.rows(**filters)
            return [] if any(row["status"] == "held" for row in found) else [found]

        return until(settled, "no row is held")[0]

    def row(self, request_id: str, *, within: float = 20.0) -> dict[str, Any]:
        """The settled row of one request, waited for."""

        def settled() -> list[dict[str, Any]]:
            found = self.rows(request_id=request_id)
            assert len(found) <= 1, found
            return [one for one in found if one["status"] != "held"]

        return until(settled, f"a settled row of {request_id}", within=within)[0]

    # what it said

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines of the log."""
        lines = (line for line in self.log().splitlines() if line.startswith("{"))
        return [json.loads(line) for line in lines if line.endswith("}")]

    def complaints(self) -> list[str]:
        """What no log may have: tracebacks, errors that are not about a bad proxy.yaml, answers with 500."""
        lines = self.log().splitlines()
        starts = [i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line]
        bad = ["\n".join(lines[i : i + 30]) for i in starts]
        for line in self.log_lines():
            of_config = "config" in line.get("logger", "")
            is_error = line.get("level") in ("error", "critical") and not of_config
            if is_error or 500 in (line.get("http_status"), line.get("status")):
                bad.append(str(line))
        return [text for text in bad if not any(word in text for word in self.allow)]


ProxyFactory = Callable[..., Proxy]


_made: list[Any] = []


MODE = os.environ.get("PROXY_TEST_E2E", "")
"""What every server of a run is; empty: one process on a file."""
WORKERS = "workers"
"""Two processes on one port and one database server; connections go to either."""
ROUND_ROBIN = "round-robin"
"""Two servers on one database server, behind a relay (`round_robin.py`)."""


def _as_workers(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a `Proxy` that is two processes."""
    launch = given.get("launch", subprocess.Popen)
    return {**given, "launch": launch, "env": {"PROXY_WORKERS": "2", **given["env"]}}


def default_database(place: Path) -> Path | str:
    """A file; with a `MODE` (also `postgresql`) an empty database on a server, for all tests of a run."""
    if not MODE:
        return place / "proxy.db"
    if not _made:
        folder = postgres.programs()
        assert folder is not None, postgres.MISSING
        server = postgres.PostgresServer(folder, *postgres.QUICK)
        atexit.register(server.remove)
        _made.append(postgres.Databases(server))
    return str(_made[0].empty())


def _kind(database: Path | str | None) -> type[Proxy]:
    if MODE != ROUND_ROBIN or isinstance(database, Path):
        return Proxy
    from tests.support.round_robin import TwoServers  # noqa: PLC0415 - it builds on this module

    return TwoServers


@contextlib.contextmanager
def proxies(directory: Path) -> Iterator[ProxyFactory]:
    """A factory of servers that are stopped, and their logs checked, at the end."""
    started: list[Proxy] = []

    def factory(
        text: str, *, env: Mapping[str, str] | None = None, database: Path | str | None = None, **more: Any
    ) -> Proxy:
        place = directory / str(len(started))
        place.mkdir(parents=True)
        path = place / "proxy.yaml"
        path.write_text(text)
        given = {"env": env or {}, **more}
        if MODE == WORKERS and not isinstance(database, Path):
            given = _as_workers(given)
        one = _kind(database)(path, database or default_database(place), place / "log", **given)
        started.append(one)
        return one.start()

    try:
        yield factory
    finally:
        for one in started:
            if one._process is not None:
                one.stop()
    for one in started:
        assert not one.complaints(), "\n".join(one.complaints()[:5])
