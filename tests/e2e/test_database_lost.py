"""The database under a running server: whose it is, and what happens when somebody takes it away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config

MOCK = {"name": "mock", "provider": "mock", "price": {"input": 1, "output": 2}}


def remove_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def restore_a_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def unready(served: Proxy) -> bool:
    return served.client.get("/health/readiness").status_code == 503


@pytest.mark.parametrize("lose", [remove_the_directory, restore_a_copy])
def test_a_lost_database_is_detected_and_no_other_is_served(
    proxy: ProxyFactory, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    place = tmp_path / "data"
    place.mkdir()
    served = proxy(config(MOCK), database=place / "proxy.db", allow=["the store cannot write"])
    assert served.chat().status_code == 200
    lose(served.database)
    before = sorted(place.glob("*"))
    until(lambda: unready(served), "readiness says so")
    answer = served.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "accounting_unavailable")
    assert served.client.get("/health/readiness").json()["status"] == "accounting_unavailable"
    assert served.admin("POST", "/key/generate", json={}).status_code == 503
    assert sorted(place.glob("*")) == before
    served.kill()  # a stop would wait for the file to come back; tests/store/test_writer.py bounds that wait
