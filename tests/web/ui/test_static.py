"""Files of the dashboard: what is vendored is what was recorded, and nothing leads to the internet."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import codellama_proxy.web.ui as ui_package
from codellama_proxy.web.ui.assets import TYPES, assets
from tests.support.browsing import Browser
from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config

PACKAGE = Path(ui_package.__file__ or "").parent
STATIC = PACKAGE / "static"
OURS = {"ui.css", "icon.svg"}
VENDORED = tomllib.loads((STATIC / "VENDORED.toml").read_text())["package"]


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config({"name": "plain", "provider": "mock"}))


def test_vendored_files_are_those_that_were_recorded() -> None:
    recorded = {
        name: one["sha256"] for package in VENDORED.values() for name, one in package["files"].items()
    }
    for name, digest in recorded.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
    others = {path.name for path in STATIC.iterdir() if path.suffix.lstrip(".") in TYPES} - recorded.keys()
    assert others >= OURS
    assert all(name in OURS or name.endswith(".js") for name in others), "a new file is ours, or recorded"


def test_every_vendored_package_has_its_licence_in_the_notice() -> None:
    notice = (STATIC / "NOTICE.txt").read_text()
    for name, package in VENDORED.items():
        assert f"{name} {package['version']}" in notice
        assert package["integrity"].startswith("sha512-")
    assert "Zero-Clause BSD" in notice
    assert "SIL OPEN FONT LICENSE" in notice


@each("path", sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".css", ".js", ".html", ".svg")))
def test_nothing_refers_to_another_host(path: Path) -> None:
    found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text()))
    assert found <= {"http://www.w3.org"}, path


def test_files_are_kept_for_ever_under_their_hash(served: Proxy) -> None:
    browser = Browser(served)
    for name, asset in assets().items():
        answer = browser.get(asset.path, **{"accept-encoding": "identity"})
        assert answer.status_code == 200
        assert answer.content == asset.body
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"] == TYPES[name.rpartition(".")[2]]
        assert answer.headers["x-content-type-options"] == "nosniff"
        packed = browser.get(asset.path, **{"accept-encoding": "gzip"})
        assert packed.content == asset.body
        if asset.packed is not None:
            assert packed.headers["content-encoding"] == "gzip"
            assert gzip.decompress(asset.packed) == asset.body


@each(
    "path", ["static/0123456789ab/ui.css", "static/x/../ui.py", "static/x/VENDORED.toml", "static/a/b/c.js"]
)
def test_other_files_are_not_served(served: Proxy, path: str) -> None:
    assert Browser(served).client.get(f"/ui/{path}").status_code in (303, 404)


def test_fonts_of_the_style_have_their_hashed_addresses() -> None:
    style = assets()["ui.css"].body.decode()
    for name in ("sans.woff2", "mono.woff2"):
        assert f"url(../{assets()[name].hash}/{name})" in style


def test_templates_are_not_loaded_before_the_first_page() -> None:
    code = "import codellama_proxy.server.process, sys; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
