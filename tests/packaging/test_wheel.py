"""The wheel: built offline, it has everything, and it serves from an environment of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from codellama_proxy import __version__
from tests.support.processes import ROOT, end, environment, free_port, until
from tests.support.raw_http import exchange, request

PACKAGE = ROOT / "codellama_proxy"
QUERIES = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.sql")}
PAGES = {path.relative_to(ROOT).as_posix() for kind in ("html", "css") for path in PACKAGE.rglob(f"*.{kind}")}
STATIC = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / "web/ui/static").iterdir()}
STARTER = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / "cli" / "starter").iterdir()}
MIGRATIONS = {
    f"codellama_proxy/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("migrations/**/*.sql")
}


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "wheel", *offline, "--wheel-dir", str(place), str(ROOT), cwd=place)
    (built,) = place.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a fresh environment, which borrows nothing but the dependencies."""
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=venv.parent)
    python = str(venv / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", str(wheel), cwd=venv.parent)
    (packages,) = venv.glob("lib/python*/site-packages")
    # A directory on the path is not searched for .pth files: the checkout does not come along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import codellama_proxy as p; print(p.__file__)", cwd=venv.parent)
    assert Path(where).is_relative_to(packages)
    return venv / "bin" / "codellama-proxy"


def test_the_wheel_has_every_module_query_migration_and_page_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    assert len(QUERIES) > 3
    assert "codellama_proxy/migrations/sqlite/0001_keys.sql" in MIGRATIONS
    assert names == modules | QUERIES | MIGRATIONS | PAGES | STATIC | STARTER | {"codellama_proxy/py.typed"}


def test_the_wheel_has_the_projects_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Name"] == project["name"]
    assert metadata["Version"] == __version__
    assert metadata["Summary"] == project["description"]
    assert metadata["License-Expression"] == project["license"]
    required = [one for one in metadata.get_all("Requires-Dist", []) if "extra ==" not in one]
    assert len(required) == len(project["dependencies"])


def test_the_version_is_defined_once() -> None:
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = [*PACKAGE.rglob("*.py"), ROOT / "pyproject.toml"]
    assert [path.name for path in sources if f'"{__version__}"' in path.read_text()] == ["__init__.py"]


def test_the_same_source_builds_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-index"]
    run(*pip, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT), cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """What `python -m build` does: a source archive first, then the wheel out of it."""
    code = "import sys; from hatchling import build; print(build.build_sdist(sys.argv[1]))"
    name = run(sys.executable, "-c", code, str(tmp_path), cwd=ROOT).strip()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-index"]
    run(*pip, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(tmp_path / name), cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@contextlib.contextmanager
def serving(command: Path, directory: Path, port: int) -> Iterator[None]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(command), "serve", "--port", str(port)],
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: process.poll() is not None or ready(port), "the server is ready", within=60)
            yield
        finally:
            process.terminate()
            end(process)


def ready(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        return exchange(port, request("/health/readiness", method="GET")).status == 200
    return False


def test_the_installed_wheel_checks_serves_and_backs_up(installed: Path, tmp_path: Path) -> None:
    run(str(installed), "init", cwd=tmp_path)
    with (tmp_path / "proxy.yaml").open("a") as file:
        file.write("\nauth: {required: false}\n")
    run(str(installed), "check", cwd=tmp_path)
    assert json.loads(run(str(installed), "schema", cwd=tmp_path))["properties"]["models"]
    port = free_port()
    with serving(installed, tmp_path, port):
        reply = exchange(port, request("/v1/chat/completions", {"prompt": "hi"}))
        assert reply.status == 200, (tmp_path / "log").read_text()
        assert json.loads(reply.body)["choices"]
        page = exchange(port, request("/", method="GET", accept="text/html"))
        assert (page.status, b"Ready." in page.body) == (200, True)
    run(str(installed), "backup", "copy.db", cwd=tmp_path)
    assert (tmp_path / "copy.db").stat().st_size > 0
