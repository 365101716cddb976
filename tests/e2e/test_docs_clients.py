"""docs/clients.md: the snippets of the SDKs and of completion work, and every other snippet has a test elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.agents import AGENTS
from tests.clients.libraries import LIBRARIES
from tests.support.client_docs import ADDRESS, KEY, MODEL, PAGE, SNIPPETS
from tests.support.processes import ROOT, environment
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

SDKS = {
    "openai-sdk": ["chat/completions"] * 2,
    "openai-sdk-responses": ["responses"],
    "anthropic-sdk": ["messages"] * 2,
}
NOT_RUN = {"open-webui", "autocomplete"}
"""A container image, and the setting of an editor; the request that the latter makes is run."""


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(model("chat", "say=hello there"), model("fim", "say=middle", mode="completion"))
    )


def endpoints(served: Proxy, before: int) -> list[str]:
    """Of the requests since then."""
    rows = served.settled_rows()
    assert {row["status"] for row in rows} == {"ok"}
    return [row["endpoint"] for row in rows[: len(rows) - before]]


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A snippet in Python, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", SDKS)
def test_the_snippet_of_an_sdk_works(served: Proxy, name: str) -> None:
    before = len(served.rows())
    code = SNIPPETS[name].for_proxy(served, "chat")
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["hello", "there"] * len(SDKS[name])
    assert endpoints(served, before) == SDKS[name]


def test_the_snippets_work_without_a_provider_after_the_change_that_the_page_names(
    module_proxy: ProxyFactory,
) -> None:
    change = "routing: {unknown_model: default}"
    assert f"`{change}`" in PAGE
    begin, _, rest = (ROOT / "proxy.yaml").read_text("utf-8").partition("# Retries, and when")
    served = module_proxy(f"{begin}{change}\n# {rest}")
    for name, asked in SDKS.items():
        code = SNIPPETS[name].for_proxy(served, MODEL)
        done = run(code)
        assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
        assert [row["model"] for row in served.rows()[: len(asked)]] == ["mock"] * len(asked)


def test_the_request_of_a_completion_works(served: Proxy, upstream: Upstream) -> None:
    before = len(served.rows())
    script = SNIPPETS["completion"].for_proxy(served, "fim")
    done = subprocess.run(["sh", "-ec", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"middle"' in done.stdout
    assert endpoints(served, before) == ["completions"]
    [sent] = upstream.journal.bodies()
    assert (sent["prompt"], sent["suffix"]) == ("def add(a, b):\n    ", "\n\nprint(add(1, 2))")


def test_every_snippet_of_the_page_is_run() -> None:
    agents = {name for one in AGENTS.values() for name in (one.script, one.config) if name}
    libraries = {name for one in LIBRARIES.values() for name in (one.snippet, one.config) if name}
    assert set(SNIPPETS) == {*SDKS, "completion", *agents, *libraries, *NOT_RUN}


def test_every_snippet_has_what_a_reader_replaces() -> None:
    files = {name: one for name, one in SNIPPETS.items() if one.file}
    assert all(ADDRESS in one.text for one in files.values())
    shown = PAGE.partition("## Claude Code")[0]
    assert all(f"`{what}`" in shown for what in (ADDRESS, KEY, MODEL))


def test_files_are_named_below_the_home_directory() -> None:
    assert {name for name, one in SNIPPETS.items() if one.file} == {"codex", "opencode", "continue", "llm"}
    assert all(not Path(str(one.file)).is_absolute() for one in SNIPPETS.values() if one.file)
