"""Setting up: interrupted anywhere, moved, or half made, the next run mends it; with interpreters that only record."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.processes import ROOT

STEPS = ("venv", "requirements", "editable", "uninstall", "seed")

# Both the interpreter outside and the one in .venv. Everything but `-c` is a step: it leaves its half behind, and may
# be interrupted there with its whole group of processes, as by Ctrl-C or by a machine that is switched off.
PYTHON = """
#!/bin/sh
case "$*" in
    "-I -c "*) exit 0 ;;
    "-c "*) exec {real} "$@" ;;
    "-m venv "*) step=venv ;;
    *"-r requirements"*) step=requirements ;;
    *editable*) step=editable ;;
    *uninstall*) step=uninstall ;;
    *seed_tokenizer*) step=seed ;;
    *) exit 0 ;;
esac
[ $step = venv ] && mkdir -p .venv/bin
touch ".venv/half-$step" || exit 1
[ "$STOP_AT" = $step ] && kill -"$STOP_BY" 0
[ $step = venv ] && cp "$0" .venv/bin/python
mv ".venv/half-$step" ".venv/done-$step"
[ $step = editable ] && pwd -P >.venv/place
echo $step >>"$STEPS_LOG"
exit 0
"""


class Checkout:
    """A copy of what scripts/install reads."""

    def __init__(self, place: Path, tools: Path) -> None:
        self.place, self.tools = place, tools
        (place / "scripts/dev").mkdir(parents=True)
        for name in ("install", "dev/seed_tokenizer.py", "serve"):
            shutil.copy(ROOT / "scripts" / name, place / "scripts" / name)
        for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
            (place / name).write_text(name)
        tools.mkdir()
        python = tools / "python"
        python.write_text(textwrap.dedent(PYTHON).lstrip().format(real=sys.executable))
        python.chmod(0o755)

    def install(self, *arguments: str, stop_at: str = "", by: str = "KILL") -> tuple[int, list[str], str]:
        """The exit code, the steps that ended, and what was said."""
        log = self.tools / "steps"
        log.write_text("")
        env = {"PATH": os.environ["PATH"], "PYTHON": str(self.tools / "python"), "STEPS_LOG": str(log)}
        done = subprocess.run(
            ["scripts/install", *arguments],
            cwd=self.place,
            env={**env, "STOP_AT": stop_at, "STOP_BY": by},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            start_new_session=True,
        )
        return done.returncode, log.read_text().split(), done.stderr

    def whole(self) -> bool:
        inside = {path.name for path in (self.place / ".venv").iterdir()}
        return (
            not any(name.startswith(("half-", "unfinished")) for name in inside)
            and {f"done-{step}" for step in STEPS} <= inside
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout", tmp_path / "tools")


def test_a_fresh_machine_is_set_up_once_with_progress(checkout: Checkout) -> None:
    code, steps, output = checkout.install()
    assert (code, steps) == (0, [*STEPS])
    assert [line[:5] for line in output.splitlines() if line.startswith("[")] == [
        "[1/4]",
        "[2/4]",
        "[3/4]",
        "[4/4]",
    ]
    assert checkout.whole()
    assert checkout.install() == (0, [], "")
    code, steps, _ = checkout.install("dev")
    assert (code, steps) == (0, [*STEPS[1:]])
    assert checkout.install("dev") == (0, [], "")
    assert checkout.install() == (0, [], "")


@pytest.mark.parametrize("by", ["KILL", "INT"])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_set_up_is_restarted(checkout: Checkout, step: str, by: str) -> None:
    code, _, _ = checkout.install(stop_at=step, by=by)
    assert code != 0
    code, steps, output = checkout.install()
    assert (code, steps) == (0, [*STEPS])
    assert "incomplete" in output
    assert checkout.whole()
    assert checkout.install() == (0, [], "")


@pytest.mark.parametrize("step", STEPS[1:])
def test_an_interrupted_upgrade_is_repaired(checkout: Checkout, step: str) -> None:
    checkout.install()
    (checkout.place / "requirements.txt").write_text("others")
    assert checkout.install(stop_at=step)[0] != 0
    assert checkout.install()[:2] == (0, [*STEPS])
    assert checkout.whole()


def test_an_incomplete_environment_of_an_older_version_is_recreated(checkout: Checkout) -> None:
    (checkout.place / ".venv/bin").mkdir(parents=True)
    (checkout.place / ".venv/half-pip").touch()
    (checkout.place / ".venv.old").mkdir()
    assert checkout.install()[:2] == (0, [*STEPS])
    assert checkout.whole()
    assert not (checkout.place / ".venv.old").exists()


def test_an_environment_with_a_missing_interpreter_is_recreated(checkout: Checkout) -> None:
    checkout.install()
    python = checkout.place / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert checkout.install()[:2] == (0, [*STEPS])


def test_a_moved_checkout_is_installed_again(checkout: Checkout, tmp_path: Path) -> None:
    checkout.install()
    checkout.place = checkout.place.rename(tmp_path / "moved")
    code, steps, _ = checkout.install()
    assert (code, "editable" in steps) == (0, True)
    assert (checkout.place / ".venv/place").read_text() == f"{checkout.place.resolve()}\n"
    assert checkout.install() == (0, [], "")


def test_concurrent_set_ups_wait_for_each_other(checkout: Checkout) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(checkout.tools / "python"),
        "STEPS_LOG": str(checkout.tools / "log"),
    }
    both = [
        subprocess.Popen(["scripts/install"], cwd=checkout.place, env=env, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [one.wait(30) for one in both] == [0, 0]
    assert (checkout.tools / "log").read_text().split() == [*STEPS]


def test_an_old_python_is_refused_with_a_message(checkout: Checkout) -> None:
    old = checkout.tools / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1\nexit 1\n')
    code, _, output = checkout.install()
    assert (code, "3.11 or newer" in output, "3.9.1" in output) == (1, True, True)


def test_a_second_start_installs_nothing() -> None:
    if not (ROOT / ".venv").exists():
        pytest.skip("this is no checkout that was set up")
    subprocess.run(["scripts/install", "dev"], cwd=ROOT, check=True, timeout=300)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["scripts/install", "dev"], cwd=ROOT, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2, "seconds of work"
