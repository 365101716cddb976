"""Fixtures that start real processes: nothing here costs a test that does not ask for it."""

from __future__ import annotations

import os
import platform
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import chromium, postgres
from tests.support.forked import stop_fork_server
from tests.support.proxy_process import MODE, ROUND_ROBIN, WORKERS, ProxyFactory, proxies
from tests.support.upstream.process import Upstream, View

# Machines are shared: how long an example takes says nothing. In CI the same examples are tried every time.
settings.register_profile(
    "shared",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("shared")


MEMORY = Path("/dev/shm")  # only used where it is a large file system
MIN_MEMORY_BYTES = 2 << 30


def pytest_configure() -> None:
    """Temporary files go to memory where there is enough: a test database needs no disk to be safe on.

    Shells start background jobs with SIGINT ignored, which the commands under test would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK):
        room = os.statvfs(MEMORY)
        if room.f_bavail * room.f_frsize >= MIN_MEMORY_BYTES and not room.f_flag & os.ST_NOEXEC:
            os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def pytest_unconfigure() -> None:
    stop_fork_server()


def pytest_xdist_auto_num_workers() -> int | None:
    """What `-n auto` is: more than there are cores, because much of a test is waiting for another process."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2


LONGEST = (
    *(
        "browser/test_every_page.py",
        "browser/test_changes.py",
        "browser/test_sessions.py",
        "browser/test_reports.py",
    ),
    *(
        "e2e/test_gptcache.py",
        "e2e/test_promptlayer.py",
        "e2e/test_shutdown.py",
        "packaging/test_container.py",
    ),
    *("e2e/test_reload.py", "store/test_ledger_model.py", "gateway/test_faults.py", "cli/test_errors.py"),
    *("e2e/test_clients.py", "e2e/test_cache.py", "packaging/test_install.py", "e2e/test_reload_storm.py"),
)
"""Files that begin first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not str(item.path).endswith(LONGEST))
    for item in items:
        mark = item.get_closest_marker("one_process")
        if mark is not None and MODE in (WORKERS, ROUND_ROBIN):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


def pytest_report_header() -> list[str]:
    names = ("starlette", "uvicorn", "httpx2", "aiohttp", "orjson", "pydantic", "aiosqlite", "openai")
    found = ", ".join(f"{name} {_version(name)}" for name in names)
    return [f"python {platform.python_version()}, sqlite {sqlite3.sqlite_version}, {found}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells at the end, where it is read, what could not be tested on this machine."""
    if not (postgres.programs() or os.environ.get(postgres.VARIABLE)):
        terminalreporter.write_line(f"TESTS WITH POSTGRESQL WERE SKIPPED: {postgres.MISSING}", red=True)
    if not chromium.program():
        terminalreporter.write_line(f"TESTS IN A BROWSER WERE SKIPPED: {chromium.MISSING}", red=True)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[postgres.Databases]:
    """Databases on the one PostgreSQL server of a pytest worker."""
    with postgres.server_for_tests() as server:
        yield postgres.Databases(server)


@pytest.fixture(scope="session")
def upstream_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """The one scripted upstream of a test run."""
    one = Upstream(tmp_path_factory.mktemp("upstream"))
    whole = one.journal
    yield one
    one.stop()
    assert not whole.events("bad_script")
    assert not unguarded(whole)


def unguarded(journal: View) -> list[object]:
    """Chat bodies a proxy sent, in the whole run, that should begin with a system message and do not."""
    sent = [one for one in journal.requests() if "sk-upstream-secret" in str(one["headers"])]
    chats = [one["body"] for one in sent if one["path"].endswith("/chat/completions")]
    return [
        body for body in chats if body["messages"][0]["role"] != "system" and "unguarded" not in body["model"]
    ]


@pytest.fixture
def upstream(upstream_process: Upstream) -> Upstream:
    """The upstream, its journal beginning with this test."""
    return upstream_process.fresh()


@pytest.fixture(scope="module")
def module_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyFactory]:
    """Starts servers that the tests of one module share."""
    with proxies(tmp_path_factory.mktemp("shared")) as factory:
        yield factory


@pytest.fixture
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyFactory]:
    """Starts servers for one test: `proxy(config_text, env=..., database=...)`."""
    with proxies(tmp_path_factory.mktemp("own")) as factory:
        yield factory
