"""The snippets of docs/clients.md for libraries and small tools get an answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clients.agents import QUIET
from tests.clients.libraries import LIBRARIES
from tests.clients.packages import Package
from tests.support.client_docs import SNIPPETS
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config(upstream_process.model("chat", "say=hello%20there")))


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_snippet_of_a_library_gets_an_answer(served: Proxy, tmp_path: Path, name: str) -> None:
    one = LIBRARIES[name]
    package = one.package
    if not package.path.exists():
        pytest.skip(f"{package.name} {package.version} is not installed: run scripts/test --clients")
    if one.config:
        snippet = SNIPPETS[one.config]
        path = tmp_path / str(snippet.file)
        path.parent.mkdir(parents=True)
        path.write_text(snippet.for_proxy(served, "chat"))
    done = subprocess.run(
        one.command(SNIPPETS[one.snippet].for_proxy(served, "chat")),
        check=False,
        cwd=package.folder if isinstance(package, Package) else tmp_path,
        env={**QUIET, "PATH": f"{package.path.parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("hello there") == one.answers, done.stdout
