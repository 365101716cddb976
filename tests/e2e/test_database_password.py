"""A server whose database asks for a password, which no log line, page, metric or list of processes shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browsing import operator
from tests.support.password_server import ENCODED, PASSWORD, ROLE, PasswordServer, password_server
from tests.support.processes import end, until
from tests.support.proxy_process import Proxy

CONFIG = """
models:
  - {name: mock, provider: mock, price: {input: 1, output: 1}}
projects:
  default: {limits: {max_budget: 100}}
"""
DATABASE = "installation"
WRONG = "another-Secret-9Qx"
PATHS = (
    *("/", "/health", "/health/readiness", "/health/liveliness", "/metrics", "/v1/models", "/openapi.json"),
    *("/spend", "/spend/logs", "/key/list", "/audit", "/requests/req_1"),
)
PAGES = ("overview", "models", "keys", "budgets", "connect", "requests", "config")
OUTAGES = {
    "the password changed": (
        f"alter role {ROLE} password '{WRONG}'",
        f"alter role {ROLE} password '{PASSWORD}'",
    ),
    "connections are refused": (f"alter role {ROLE} nologin", f"alter role {ROLE} login"),
    "statements are refused": (
        f"revoke all on all tables in schema public from {ROLE}",
        f"grant all on all tables in schema public to {ROLE}",
    ),
}
END_CONNECTIONS = (
    f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{DATABASE}'"
    " and pid <> pg_backend_pid()"
)


class FromEnvironment(Proxy):
    """Gets the address from `PROXY_DATABASE`, as docs/scaling.md says."""

    def command(self) -> list[str]:
        words = super().command()
        at = words.index("--database")
        return [*words[:at], *words[at + 2 :]]


@pytest.fixture(scope="module")
def server() -> Iterator[PasswordServer]:
    with password_server() as opened:
        opened.run(f"create database {DATABASE} owner {ROLE}")
        yield opened


def made(server: PasswordServer, place: Path, password: str, **env: str) -> FromEnvironment:
    (place / "proxy.yaml").write_text(CONFIG)
    address = server.address(DATABASE, password)
    given = {"PROXY_DATABASE": address, **env}
    return FromEnvironment(place / "proxy.yaml", address, place / "log", given, launch=subprocess.Popen)


def processes(one: Proxy) -> str:
    """What `ps` shows of the server and of what it started."""
    words, pids = [], [one.pid]
    while pids:
        pid = pids.pop()
        words.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace"))
        pids += [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(words) > 2
    return "\n".join(words)


def everything(one: Proxy) -> str:
    """Whatever the server shows, also while its database is away."""
    browser = operator(one)
    texts = [one.admin("GET", path).text for path in PATHS]
    texts += [one.client.get(path).text for path in PATHS]
    texts += [browser.get(path).text for path in PAGES]
    texts += [one.chat(model="mock").text, one.chat(model="absent").text]
    texts += [one.admin("POST", "/key/generate", json={"key_alias": "x"}).text, processes(one), one.log()]
    return "\n".join(texts)


def test_no_output_of_a_server_shows_the_password(server: PasswordServer, tmp_path: Path) -> None:
    one = made(server, tmp_path, ENCODED, PROXY_WORKERS="2")
    one.start()
    try:
        shown = {"in order": everything(one)}
        for outage, (begin, stop) in OUTAGES.items():
            server.run(begin, DATABASE)
            server.run(END_CONNECTIONS)
            until(lambda: one.chat(model="mock").status_code == 503, outage)
            shown[outage] = "\n".join(
                [one.chat(model="mock").text, one.admin("GET", "/health").text, processes(one)]
                + [one.admin("GET", path).text for path in PATHS]
            )
            server.run(stop, DATABASE)
            until(lambda: {one.chat(model="mock").status_code for _ in range(8)} == {200}, "service again")
        shown["afterwards"] = everything(one)
    finally:
        one.stop()
    shown["log"] = one.log()
    for kind in ("password authentication failed", "is not permitted to log in", "permission denied"):
        assert kind in shown["log"]
    for when, text in shown.items():
        assert not [secret for secret in (PASSWORD, ENCODED, WRONG) if secret in text], when


def test_a_start_with_a_wrong_password_says_so_without_any(server: PasswordServer, tmp_path: Path) -> None:
    one = made(server, tmp_path, WRONG)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            one.command(), cwd=tmp_path, env={**dict(one.env), "PATH": ""}, stdout=log, stderr=log
        )
        try:
            until(lambda: "waiting up to" in one.log(), "it waits for the server")
        finally:
            process.terminate()
            end(process, within=30)
    assert "password authentication failed" in one.log()
    assert f"{DATABASE} on 127.0.0.1:{server.port}" in one.log()
    assert not [secret for secret in (PASSWORD, ENCODED, WRONG) if secret in one.log()]
