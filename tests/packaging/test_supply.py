"""What we run is what was locked: the lock, the audit of an environment, the bill of materials."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy import __version__
from scripts.dev import audit
from scripts.dev.lockfile import Pin, locked, normal, pins
from tests.support.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = {normal(re.split(r"[ \[<>=]", text)[0]) for text in PROJECT["dependencies"]}


# --- the lock ------------------------------------------------------------------------------------------


def test_every_dependency_is_locked_with_a_hash() -> None:
    lock = locked()
    assert lock.keys() >= DIRECT
    named = {name for pin in lock.values() for name in pin.wanted_by}
    assert named <= lock.keys() | {"codellama-proxy"}, "everything is there for a reason"


def test_tests_run_with_the_production_versions() -> None:
    whole = locked("requirements-dev.txt")
    assert {name: pin.version for name, pin in locked().items()}.items() <= {
        name: pin.version for name, pin in whole.items()
    }.items()


@pytest.mark.parametrize(
    "line", ["orjson", "orjson>=3", "orjson==3.13.0", "orjson @ git+https://example.com/x"]
)
def test_a_requirement_without_hash_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not pinned"):
        list(pins(f"{line}\n"))


# --- the audit -----------------------------------------------------------------------------------------

LOCK = {"good": Pin("good", "1.0", None, ("0" * 64,), ())}


def install(packages: Path, name: str, version: str) -> None:
    """As an installer would: a module, and the record of what it put there."""
    module, info = packages / name / "__init__.py", packages / f"{name}-{version}.dist-info"
    module.parent.mkdir()
    info.mkdir()
    module.write_text("x = 1\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for path in (module, info / "METADATA"):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{path.relative_to(packages)},sha256={digest},{path.stat().st_size}")
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,", ""]))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    install(tmp_path, "good", "1.0")
    return tmp_path


def test_an_environment_that_matches_its_lock_is_accepted(packages: Path) -> None:
    (packages / "good/__pycache__").mkdir()
    (packages / "good/__pycache__/__init__.cpython-311.pyc").write_bytes(b"made later")
    (packages / "ours.pth").write_text("/somewhere\n")
    assert list(audit.findings(packages, LOCK)) == ["ours.pth belongs to no distribution"]
    (packages / "ours.pth").unlink()
    assert list(audit.findings(packages, LOCK)) == []


def edit(packages: Path) -> None:
    (packages / "good/__init__.py").write_text("x = 2\n")


def remove(packages: Path) -> None:
    (packages / "good/__init__.py").unlink()


def add_a_module(packages: Path) -> None:
    (packages / "sitecustomize.py").write_text("print('hello')\n")


def add_a_start_file(packages: Path) -> None:
    (packages / "z.pth").write_text("import os; os.getcwd()\n")


def add_a_distribution(packages: Path) -> None:
    install(packages, "other", "1.0")


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        (edit, "good: good/__init__.py is not as it was installed"),
        (remove, "good: good/__init__.py is missing"),
        (add_a_module, "sitecustomize.py belongs to no distribution"),
        (add_a_start_file, "z.pth runs code whenever Python starts"),
        (add_a_distribution, "other 1.0 is in no lock file"),
    ],
)
def test_a_modified_file_is_found(packages: Path, tamper: Callable[[Path], None], finding: str) -> None:
    tamper(packages)
    assert finding in list(audit.findings(packages, LOCK))


def test_a_version_that_differs_from_the_lock_is_found(tmp_path: Path) -> None:
    install(tmp_path, "good", "1.1")
    assert list(audit.findings(tmp_path, LOCK)) == ["good is 1.1, locked is 1.0"]


def test_this_environment_matches_its_lock() -> None:
    lock = locked()
    here = metadata.distributions(path=[sysconfig.get_path("purelib")])
    serving = [one for one in here if normal(one.name) in lock]
    assert len(serving) > len(DIRECT)
    assert list(audit.unlocked({normal(one.name): one.version for one in serving}, lock)) == []
    assert [finding for one in serving for finding in audit.changed(one)] == []


# --- the bill of materials -----------------------------------------------------------------------------


def bill() -> str:
    command = [sys.executable, str(ROOT / "scripts/dev/sbom")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_the_bill_of_materials_lists_locked_packages_and_dependents() -> None:
    text = bill()
    assert bill() == text, "the same lock gives the same bill"
    whole: dict[str, Any] = json.loads(text)
    assert (whole["bomFormat"], whole["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", whole["serialNumber"])
    assert whole["metadata"]["component"]["version"] == __version__
    found = {
        one["name"]: (one["version"], tuple(h["content"] for h in one["hashes"]))
        for one in whole["components"]
    }
    assert {
        "htmx.org",
        "@fontsource-variable/geist",
        "@fontsource-variable/geist-mono",
    } == found.keys() - locked().keys()
    assert {name: found[name] for name in locked()} == {
        name: (pin.version, pin.hashes) for name, pin in locked().items()
    }
    wants = {one["ref"]: one["dependsOn"] for one in whole["dependencies"]}
    us = whole["metadata"]["component"]["bom-ref"]
    refs = {one["bom-ref"] for one in whole["components"]}
    assert wants.keys() == refs | {us}
    assert {ref for what in wants.values() for ref in what} <= refs
    assert {f"pkg:pypi/{name}@{locked()[name].version}" for name in DIRECT} <= set(wants[us])
