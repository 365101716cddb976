"""The vendored library of the tests is what was recorded."""

from __future__ import annotations

import hashlib
import tomllib

from tests.support.person import AXE


def test_the_accessibility_checker_is_what_was_recorded() -> None:
    package = tomllib.loads((AXE.parent / "VENDORED.toml").read_text())["package"]["axe-core"]
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == package["files"][AXE.name]["sha256"]
    assert package["licence"] == "MPL-2.0"
    notice = (AXE.parent / "NOTICE.txt").read_text()
    assert f"axe-core {package['version']}" in notice
    assert "Mozilla Public License" in notice
