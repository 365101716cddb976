"""A process forked for a test behaves as one started with a new interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked import ForkedProcess, run_forked
from tests.support.processes import ROOT, end, environment, until

SCRIPTS = {
    "arguments and environment": """
        import os, sys
        print(sys.argv, os.getcwd(), sorted(os.environ.items()), sys.path[0], repr(sys.stdin.read()), __name__)
    """,
    "open descriptors": """
        import os
        listed = set(os.listdir("/proc/self/fd"))
        print(sorted(n for n in listed if os.path.exists(f"/proc/self/fd/{n}") and int(n) > 2))
    """,
    "signals": """
        import signal
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            print(signal.getsignal(number))
        print(signal.set_wakeup_fd(-1))
    """,
    "output streams": "import sys; print('out'); print('err', file=sys.stderr)",
    "an exit code": "import sys; sys.exit(7)",
    "an exit message": "import sys; sys.exit('no')",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "an interruption": """
        import os, signal, sys
        sys.excepthook = lambda kind, *_: print(kind)
        os.kill(os.getpid(), signal.SIGINT)
    """,
    "exit handlers and threads": """
        import atexit, threading, time
        atexit.register(print, "atexit")
        threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
    """,
}


def script(directory: Path, text: str) -> list[str]:
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    (directory / "script.py").write_text("\n".join(line[indent:] for line in lines))
    return [sys.executable, str(directory / "script.py"), "one", "--two"]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_a_forked_script_behaves_as_in_a_new_interpreter(tmp_path: Path, text: str) -> None:
    command, env = script(tmp_path, text), environment(ONLY="here", TZ="Asia/Tokyo")
    started = subprocess.run(
        command,
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    forked = run_forked(command, cwd=tmp_path, env=env)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_an_exception_in_a_forked_script_exits_with_a_traceback(tmp_path: Path) -> None:
    done = run_forked(script(tmp_path, "raise ValueError('so')"), env=environment())
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ValueError: so\n")


def test_forked_processes_draw_different_random_numbers(tmp_path: Path) -> None:
    command = script(tmp_path, "import random, uuid; print(random.random(), uuid.uuid4())")
    first, second = (run_forked(command, env=environment()).stdout.split() for _ in range(2))
    assert not {*first} & {*second}


def test_a_forked_process_can_be_stopped_killed_and_waited_for(tmp_path: Path) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        command = script(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
        with (tmp_path / "out").open("wb") as out:
            one = ForkedProcess(command, cwd=tmp_path, env=environment(), stdout=out, stderr=out)
        until(lambda: (tmp_path / "out").read_bytes() == b"up\n", "it runs")
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(0.01)
        assert one.poll() is None
        one.send_signal(how)
        assert end(one) == -how
        assert one.poll() == -how


def test_forked_processes_end_when_the_test_process_is_killed(tmp_path: Path) -> None:
    asleep = [sys.executable, str(tmp_path / "asleep.py")]
    Path(asleep[1]).write_text("import time; time.sleep(60)")
    program = (
        "import sys, time\n"
        "from tests.support.forked import ForkedProcess\n"
        f"one = ForkedProcess({asleep!r}, cwd='/', env={{}}, stdout=2, stderr=2)\n"
        "print(one.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        assert runs(pid)
        tests.kill()
        until(lambda: not runs(pid), "the child has ended")


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
