"""The container's parts, each tried for real: build steps, user, read-only root, process 1, health check, SIGTERM."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.dev.try_dockerfile import admitted
from tests.support.container_sandbox import DOCKERFILE, USER, Image, built, last
from tests.support.processes import ROOT, free_port, until
from tests.support.raw_http import Wire, request

MASTER = "master-key-of-the-container-tests"


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built() as one:
        yield one


@pytest.fixture
def env(image: Image) -> Iterator[dict[str, str]]:
    """The image's environment and an empty, mounted /data."""
    yield image.env(PROXY_HOST="127.0.0.1", PROXY_PORT=str(free_port()), PROXY_MASTER_KEY=MASTER)
    for path in (image.root / "data").iterdir():
        path.unlink()


def healthy(image: Image, env: dict[str, str]) -> bool:
    code, _ = image.run(*last("HEALTHCHECK"), env=env)
    return code == 0


# --- the file ------------------------------------------------------------------------------------------


def test_no_instruction_needs_a_shell() -> None:
    commands = [one.command for one in DOCKERFILE if one.word in ("RUN", "ENTRYPOINT", "CMD", "HEALTHCHECK")]
    assert len(commands) > 5
    assert all(isinstance(word, str) for command in commands for word in command)


def test_downloads_are_checked_by_hash() -> None:
    installs = [one.command for one in DOCKERFILE if one.word == "RUN" and "install" in one.command]
    of_pip = [command for command in installs if "pip" in command]
    assert len(of_pip) == 2
    assert all("--require-hashes" in command or "--no-deps" in command for command in of_pip)
    assert all("--no-build-isolation" in command for command in of_pip if "--no-deps" in command)


def test_the_last_stage_runs_nothing_and_ends_as_an_unprivileged_user() -> None:
    start = max(place for place, one in enumerate(DOCKERFILE) if one.word == "FROM")
    words = [one.word for one in DOCKERFILE[start:]]
    assert "RUN" not in words
    assert [one.text for one in DOCKERFILE[start:] if one.word == "USER"] == [f"{USER}:{USER}"]
    assert words.index("USER") < words.index("ENTRYPOINT")


@pytest.mark.parametrize(
    "path", [".env", ".git/config", "data/proxy.db", "tests/support/proxy_process.py", "config/proxy.yaml"]
)
def test_secrets_and_unneeded_files_are_not_in_the_build_context(path: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    assert ignore.splitlines()[1] == "*", "everything is out unless named"
    assert not admitted(ignore, path)


# --- what it makes -------------------------------------------------------------------------------------


def test_every_instruction_works(image: Image) -> None:
    skipped = [line for line in image.done if "SKIPPED" in line]
    assert len(image.done) == len(DOCKERFILE)
    assert ["--require-hashes" in line for line in skipped] == [True]


def test_the_image_has_the_package_and_no_installer(image: Image) -> None:
    binaries = {path.name for path in (image.root / "app/.venv/bin").iterdir()}
    assert {"python", "codellama-proxy"} <= binaries
    assert not {name for name in binaries if name.startswith("pip")}
    (package,) = (image.root / "app/.venv/lib").glob("python*/site-packages/codellama_proxy")
    assert (package / "migrations/sqlite/0001_keys.sql").exists()
    assert list(package.glob("gateway/__pycache__/pipeline.*.pyc"))


def test_only_data_belongs_to_the_user(image: Image) -> None:
    owned = [path for path in image.root.rglob("*") if path.lstat().st_uid == int(USER)]
    assert owned == [image.root / "data"]
    assert stat.S_IMODE((image.root / "data").stat().st_mode) == 0o700
    files = [path.lstat() for path in (image.root / "app").rglob("*") if not path.is_symlink()]
    assert not [one for one in files if one.st_mode & stat.S_IWOTH]


def test_the_entrypoint_takes_other_commands(image: Image, env: dict[str, str]) -> None:
    code, output = image.run(*last("ENTRYPOINT"), "check", env=env)
    assert code == 0, output


# --- how it runs ---------------------------------------------------------------------------------------


def test_the_container_serves_on_a_read_only_root_and_stops_on_sigterm(
    image: Image, env: dict[str, str], tmp_path: Path
) -> None:
    port = int(env["PROXY_PORT"])
    assert not healthy(image, env), "nobody answers yet"
    with image.running(env, tmp_path / "log") as container:
        until(lambda: container.ended() or healthy(image, env), "the health check", within=60)
        assert not container.ended(), container.log()
        status = container.status()
        assert status["NSpid"].split()[-1] == "1"
        assert set(status["Uid"].split() + status["Gid"].split()) == {USER}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        mounts = [line.split() for line in Path(f"/proc/{container.first}/mounts").read_text().splitlines()]
        modes = {mount[1]: mount[3].split(",")[0] for mount in mounts}
        assert (modes["/"], modes[str(image.root)], modes[str(image.root / "data")]) == ("ro", "ro", "rw")

        code, output = image.run("keys.py", "create", "web-team", "--json", env=env)
        assert code == 0, output
        key = json.loads(output)["key"]
        body = {"model": "mock", "stream": True, "prompt": "hi"}
        with Wire(port) as wire:
            wire.send(request("/v1/chat/completions", body, authorization=f"Bearer {key}"))
            lines = wire.lines()
            next(lines)
            os.kill(container.first, signal.SIGTERM)
            rest = b"".join(lines)
        assert rest.endswith(b"data: [DONE]\n\n"), "open answers run to their end"
        assert container.wait() == 0
    assert "Traceback" not in container.log()
    assert not healthy(image, env)
    assert not list((image.root / "data").glob("*-wal")), "the books are closed"
    assert stat.S_IMODE((image.root / "data/proxy.db").stat().st_mode) == 0o600


def test_an_invalid_configuration_ends_the_container_before_the_port_is_bound(
    image: Image, env: dict[str, str], tmp_path: Path
) -> None:
    bad = image.root / "config/bad.yaml"
    bad.write_text("models:\n  - name: a\n    provider: opnai\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(env["PROXY_PORT"])))
        taken.listen()
        with image.running({**env, "PROXY_CONFIG": str(bad)}, tmp_path / "log") as container:
            assert container.wait() == 1
    assert re.search(r"bad\.yaml:3:\d+: .*openai", container.log())
    bad.unlink()


def test_without_a_writable_data_directory_the_container_exits_with_a_message(
    image: Image, env: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = {**env, "PROXY_DATABASE": str(image.root / "nowhere/proxy.db")}
    with image.running(elsewhere, tmp_path / "log") as container:
        assert container.wait() == 1
    assert "Read-only file system" in container.log() or "Permission denied" in container.log()
    assert container.log().count("\n") == 1


def test_the_health_check_fails_on_anything_but_ready(tmp_path: Path) -> None:
    python = shutil.which("python3")
    assert python is not None
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        reader, writer = os.pipe()
        pid = os.posix_spawn(
            python,
            [python, str(ROOT / "scripts/healthy.py")],
            {**os.environ, "PROXY_PORT": str(port)},
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
        )
        os.close(writer)
        peer, _ = listening.accept()
        peer.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 13\r\n\r\nshutting_down")
        _, status = os.waitpid(pid, 0)
        peer.close()
    with os.fdopen(reader) as output:
        assert output.read() == "shutting_down\n"
    assert os.waitstatus_to_exitcode(status) == 1
