"""The proxy with a real GPTCache server behind it, as docs/cache.md sets one up."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, end, environment, free_port, until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

PACKAGES = ("gptcache==0.1.44", "openai==0.28.1", "fastapi", "uvicorn")
INSTALL_WITHIN = 240
VENV = Path(os.environ.get("GPTCACHE_VENV") or Path.home() / ".cache" / "codellama-proxy-gptcache-0.1.44")
"""Kept between runs: it takes a minute to make."""

pytestmark = pytest.mark.timeout(INSTALL_WITHIN + 60)


def installed() -> Path:
    """Its interpreter. Skips, with the reason, where it cannot be installed."""
    python = VENV / "bin" / "python"
    done = VENV / "complete"
    if done.exists():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, timeout=60)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *PACKAGES]
        subprocess.run(pip, check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN)
    except subprocess.CalledProcessError as error:
        why = (error.stderr or "").strip().splitlines()[-1:] or ["pip failed"]
        pytest.skip(f"GPTCache cannot be installed, so nothing was tested against the real one: {why[0]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"GPTCache was not installed within {INSTALL_WITHIN} s, so the real one was not tested")
    done.touch()
    return python


@pytest.fixture
def gptcache(tmp_path: Path) -> Iterator[str]:
    """The address of a real server."""
    python, port = installed(), free_port()
    log = (tmp_path / "gptcache.log").open("wb")
    process = subprocess.Popen(
        [python, ROOT / "scripts" / "dev" / "serve_gptcache.py", str(port), tmp_path / "data"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(process, url), "GPTCache answers", within=60)
        yield url
    finally:
        process.terminate()
        end(process)
        log.close()


def answers(process: subprocess.Popen[Any], url: str) -> bool:
    assert process.poll() is None, "GPTCache ended at its start"
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def cached(url: str, **more: Any) -> dict[str, Any]:
    return {"semantic": {"backend": "gptcache", "url": url}, **more}


def forget(one: Proxy) -> None:
    """Leaves only what GPTCache knows."""
    one.stop()
    one.database.with_name(f"{one.database.stem}-cache{one.database.suffix}").unlink()
    one.start()


@pytest.mark.one_process("each server has a response cache, and calls in flight, of its own")
def test_the_real_gptcache_stores_answers_per_scope(
    proxy: ProxyFactory, upstream: Upstream, gptcache: str
) -> None:
    one = proxy(config(upstream.model("fast"), cache=cached(gptcache)))
    first = one.chat(prompt="what is a list?")
    assert first.headers["x-proxy-cache"] == "miss"
    forget(one)
    again = one.chat(prompt="what is a list?")
    assert again.headers["x-proxy-cache"] == "semantic"
    assert again.headers["x-proxy-similarity"] == "1.0000"
    assert again.json() == first.json()
    streamed = one.chat(prompt="what is a list?", stream=True)
    assert streamed.headers["x-proxy-cache"] == "semantic"
    assert streamed.text.endswith("data: [DONE]\n\n")

    other = one.new_key("other-team")["key"]
    body = {"prompt": "what is a list?"}
    theirs = one.client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {other}"})
    assert theirs.headers["x-proxy-cache"] == "miss"
    assert one.chat(prompt="what is a list?", temperature=0).headers["x-proxy-cache"] == "miss"
    row = one.row(again.headers["x-request-id"])
    assert (row["cache"], row["basis"], row["cost_usd"]) == ("semantic", "cached", 0)


def test_an_unreachable_gptcache_does_not_fail_requests(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast"), cache=cached(f"http://127.0.0.1:{free_port()}")))
    assert one.chat().headers["x-proxy-cache"] == "miss"
    assert one.chat().headers["x-proxy-cache"] == "hit", "identical requests need no GPTCache"
    assert 'proxy_cache_troubles_total{kind="gptcache"} 1.0' in one.admin("GET", "/metrics").text
