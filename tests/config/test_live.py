"""Real files change under a running configuration; nothing waits, because sleep is passed in."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from codellama_proxy.config.live import SETTLE_SECONDS, LiveConfig, Source
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.core.snapshot import Snapshot

IMPLEMENTED = frozenset({"openai", "mock"})


def text(name: str = "a", more: str = "") -> str:
    return f"models:\n  - name: {name}\n    provider: mock\n{more}"


class Clock:
    """Sleep that returns at once, remembers how long it should have, and lets things happen meanwhile."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []
        self.now = 1000.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()
        await asyncio.sleep(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.yaml"
    path.write_text(text())
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def environ() -> dict[str, str]:
    return {}


@pytest.fixture
def live(path: Path, clock: Clock, environ: dict[str, str]) -> LiveConfig:
    source = Source(path, lambda: environ, IMPLEMENTED)
    return LiveConfig(source, sleep=clock.sleep, clock=lambda: clock.now)


def names(live: LiveConfig) -> list[str]:
    return list(live.snapshot.models)


def look(live: LiveConfig, times: int = 1) -> None:
    async def looks() -> None:
        for _ in range(times):
            await live.poll()

    asyncio.run(looks())


def rename_over(path: Path, content: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(content)
    beside.replace(path)


def write_in_place(path: Path, content: str) -> None:
    path.write_text(content)


def same_size_and_time(path: Path, content: str) -> None:
    before = path.stat()
    assert len(content) == before.st_size
    path.write_text(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("save", [rename_over, write_in_place, same_size_and_time])
def test_every_way_of_saving_is_detected(
    live: LiveConfig, path: Path, save: Callable[[Path, str], None]
) -> None:
    save(path, text("b"))
    look(live)
    assert names(live) == ["b"]


def test_a_changed_symlink_target_is_detected(tmp_path: Path, clock: Clock) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "proxy.yaml").write_text(text(version))
    current = tmp_path / "current"
    current.symlink_to("one")
    live = LiveConfig(Source(current / "proxy.yaml", dict, IMPLEMENTED), sleep=clock.sleep)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(current)
    look(live)
    assert names(live) == ["two"]


def test_a_touched_file_is_not_reloaded(live: LiveConfig, path: Path, clock: Clock) -> None:
    before = live.snapshot
    path.touch()
    rename_over(path, text())
    look(live, 3)
    assert live.snapshot is before
    assert live.reloads == 0
    assert clock.slept == []


def test_a_change_is_loaded_only_when_two_reads_agree(live: LiveConfig, path: Path, clock: Clock) -> None:
    path.write_text(text("half"))
    clock.meanwhile = [lambda: path.write_text(text("whole"))]
    look(live)
    assert names(live) == ["a"]
    assert clock.slept == [SETTLE_SECONDS]
    look(live)
    assert names(live) == ["whole"]


def test_an_edit_reverted_before_the_second_read_is_ignored(
    live: LiveConfig, path: Path, clock: Clock
) -> None:
    path.write_text("models: [")
    clock.meanwhile = [lambda: path.write_text(text())]
    look(live, 2)
    assert (names(live), live.error, live.failures) == (["a"], None, 0)


def spoil_by_syntax(path: Path) -> None:
    path.write_text("models: [\n")


def spoil_by_deleting(path: Path) -> None:
    path.unlink()


def spoil_by_emptying(path: Path) -> None:
    path.write_text("")


def spoil_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def spoil_by_size(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(200_000_000)


def spoil_by_a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


SPOILS = {
    spoil_by_syntax: "2:1: not YAML: something is missing here: a value, or the closing ] or }",
    spoil_by_deleting: "1:1: cannot be read: No such file or directory",
    spoil_by_emptying: "1:1: the file is empty; it needs at least `models:`",
    spoil_by_a_directory: "1:1: cannot be read: Is a directory",
    spoil_by_a_pipe: "1:1: cannot be read: not a regular file",
    spoil_by_size: "1:1: cannot be read: larger than 1024 KiB",
    spoil_by_a_dangling_link: "1:1: cannot be read: No such file or directory",
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILS.items())
def test_an_invalid_file_is_logged_once_and_changes_nothing(
    live: LiveConfig, path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str
) -> None:
    before = live.snapshot
    spoil(path)
    look(live, 3)
    assert live.snapshot is before
    assert live.error == f"{path}:{reason}"
    assert live.failures == 1
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert reason in record.getMessage()
    place = (record.line, record.column)  # type: ignore[attr-defined]
    assert reason.startswith(f"{place[0]}:{place[1]}:")

    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_text(text("back"))
    look(live)
    assert (names(live), live.error) == (["back"], None)


def test_each_invalid_content_is_logged_and_reverting_clears_the_error(
    live: LiveConfig, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for content in ("models: [", "models: {", "models: {"):
        path.write_text(content)
        look(live, 2)
    assert [r.levelno for r in caplog.records] == [logging.ERROR, logging.ERROR]
    path.write_text(text())
    look(live)
    assert live.error is None


def test_the_log_shows_the_difference_without_secrets(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "codellama_proxy.config")
    entry = "  - {name: o, provider: openai, api_key: '${KEY}'}\n"
    path.write_text(text("a", entry))
    environ = {"KEY": "sk-old-secret"}
    live = LiveConfig(Source(path, lambda: environ, IMPLEMENTED), sleep=clock.sleep)
    environ["KEY"] = "sk-new-secret"
    path.write_text(text("a", entry + "  - {name: new, provider: mock}\ntimeouts: {first_token: 10s}\n"))
    look(live)
    [record] = caplog.records
    assert record.getMessage() == (
        "configuration reloaded: models: +new; a.timeouts.first_token 30s → 10s; "
        "o.api_key changed; o.timeouts.first_token 30s → 10s"
    )
    assert record.config == live.snapshot.digest  # type: ignore[attr-defined]
    assert "secret" not in caplog.text.replace("no secret", "")


def test_a_changed_secret_file_causes_a_reload(tmp_path: Path, path: Path, clock: Clock) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one")
    path.write_text(text("a", f"  - {{name: o, provider: openai, api_key: '${{file:{secret}}}'}}\n"))
    live = LiveConfig(Source(path, dict, IMPLEMENTED), sleep=clock.sleep)
    old = live.snapshot.digest
    secret.write_text("two\n")
    look(live)
    key = live.snapshot.models["o"].deployments[0].api_key
    assert key is not None
    assert key.reveal() == "two"
    assert live.snapshot.digest != old
    secret.unlink()
    look(live)
    assert names(live) == ["a"]


def test_a_variable_that_appears_enables_its_model(
    live: LiveConfig, path: Path, environ: dict[str, str]
) -> None:
    path.write_text(text("a", "  - {name: o, provider: openai, api_key: '${KEY}'}\n"))
    look(live)
    assert names(live) == ["a"]
    environ["KEY"] = "k"
    look(live)
    assert names(live) == ["a", "o"]


def test_the_load_time_is_recorded(live: LiveConfig, path: Path, clock: Clock) -> None:
    assert live.loaded_at == 1000.0
    path.write_text(text("b"))
    look(live)
    assert live.loaded_at == 1000.0 + SETTLE_SECONDS
    path.write_text("bad")
    look(live)
    assert live.loaded_at == 1000.0 + SETTLE_SECONDS


def test_watching_checks_every_second_until_cancelled(path: Path, clock: Clock) -> None:
    live = LiveConfig(Source(path, dict, IMPLEMENTED), sleep=clock.sleep)
    changed = asyncio.Event()
    clock.meanwhile = [lambda: None, lambda: path.write_text(text("b"))]

    async def on_change(old: Snapshot, new: Snapshot) -> None:
        changed.set()

    async def run() -> None:
        live.listen(on_change)
        watching = asyncio.create_task(live.watch())
        await changed.wait()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(run())
    assert clock.slept[:3] == [1.0, 1.0, SETTLE_SECONDS]
    assert names(live) == ["b"]


def test_listeners_get_both_snapshots_and_a_failing_one_does_not_stop_others(
    live: LiveConfig, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, str]] = []

    async def fails(old: Snapshot, new: Snapshot) -> None:
        raise RuntimeError("pool")

    async def hears(old: Snapshot, new: Snapshot) -> None:
        heard.append((next(iter(old.models)), next(iter(new.models))))
        assert live.snapshot is new

    live.listen(fails)
    live.listen(hears)
    path.write_text(text("b"))
    look(live)
    assert heard == [("a", "b")]
    assert "RuntimeError: pool" in caplog.text


def test_the_file_is_read_and_built_off_the_event_loop(path: Path, clock: Clock) -> None:
    threads: list[threading.Thread] = []

    def environ() -> dict[str, str]:
        threads.append(threading.current_thread())
        return {}

    live = LiveConfig(Source(path, environ, IMPLEMENTED), sleep=clock.sleep)
    threads.clear()
    path.write_text(text("b"))
    look(live)
    assert names(live) == ["b"]
    assert len(threads) == 3
    assert threading.main_thread() not in threads


def test_an_exception_in_the_loader_keeps_configuration_and_watcher(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Source):
        def build(self, seen: object) -> Snapshot:
            if b"boom" in path.read_bytes():
                raise RuntimeError("a bug")
            return super().build(seen)  # type: ignore[arg-type]

    live = LiveConfig(Broken(path, dict, IMPLEMENTED), sleep=clock.sleep)
    path.write_text(text("boom"))
    look(live, 2)
    assert (names(live), live.failures) == (["a"], 1)
    assert caplog.text.count("RuntimeError: a bug") == 1
    path.write_text(text("b"))
    look(live)
    assert (names(live), live.error) == (["b"], None)


def test_an_invalid_file_at_start_is_an_error(path: Path) -> None:
    path.write_text("models: [")
    with pytest.raises(ConfigError, match="2:1: not YAML"):
        LiveConfig(Source(path, dict, IMPLEMENTED))
    path.unlink()
    with pytest.raises(ConfigError, match="1:1: cannot be read: No such file"):
        LiveConfig(Source(path, dict, IMPLEMENTED))


def test_a_hundred_reloads_leak_no_file_descriptor(live: LiveConfig, path: Path) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def reload_often() -> tuple[int, int]:
        counts: list[int] = []
        for number in range(100):
            path.write_text(text(f"m{number}") if number % 3 else "bad")
            await live.poll()
            counts.append(opened())
        return counts[10], counts[-1]

    early, late = asyncio.run(reload_often())
    assert late <= early
    assert names(live) == ["m98"]


def test_an_unreadable_dotenv_does_not_stop_the_watcher(path: Path, clock: Clock) -> None:
    broken = False

    def environ() -> dict[str, str]:
        if broken:
            raise PermissionError(13, "Permission denied", ".env")
        return {}

    live = LiveConfig(Source(path, environ, IMPLEMENTED), sleep=clock.sleep)
    broken = True
    look(live, 2)
    assert live.error == f"{path}:1:1: the environment cannot be read: Permission denied"
    broken = False
    path.write_text(text("b"))
    look(live)
    assert (names(live), live.error) == (["b"], None)


# --- the last good configuration ---------------------------------------------------------------------------


def test_the_last_good_configuration_replaces_an_invalid_file_with_a_warning(
    path: Path, clock: Clock
) -> None:
    path.write_text("models: [")
    live = LiveConfig(Source(path, dict, IMPLEMENTED), last_good=text("kept").encode(), sleep=clock.sleep)
    assert names(live) == ["kept"]
    assert live.text == text("kept").encode()
    assert live.error == f"{path}:2:1: not YAML: something is missing here: a value, or the closing ] or }}"
    look(live, 2)
    assert (names(live), live.failures) == (["kept"], 1), "it is the same bad file, and told once"
    path.write_text(text("mended"))
    look(live)
    assert (names(live), live.error, live.text) == (["mended"], None, text("mended").encode())


def test_a_valid_file_is_not_replaced_by_the_last_good_configuration(path: Path) -> None:
    live = LiveConfig(Source(path, dict, IMPLEMENTED), last_good=text("kept").encode())
    assert (names(live), live.error) == (["a"], None)


def test_an_invalid_last_good_configuration_reports_the_files_errors(path: Path) -> None:
    path.write_text("models: {}")
    with pytest.raises(ConfigError, match="expected a list"):
        LiveConfig(Source(path, dict, IMPLEMENTED), last_good=b"models: [")


def test_the_last_reload_records_what_changed(live: LiveConfig, path: Path) -> None:
    assert live.changes == ()
    path.write_text(text("a", "timeouts: {idle: 90s}\n"))
    look(live)
    assert live.changes == ("a.timeouts.idle 60s → 90s",)
    path.write_text("bad")
    look(live)
    assert live.changes == ("a.timeouts.idle 60s → 90s",), "nothing changed since"


def test_every_reload_is_recorded_with_its_changes_or_problems(live: LiveConfig, path: Path) -> None:
    recorded: list[tuple[bool, tuple[str, ...]]] = []
    live.record(lambda ok, lines: recorded.append((ok, lines)))
    for content in (text("a", "timeouts: {idle: 90s}\n"), "models: [{}]\nnonsense: 1\n", text("a")):
        path.write_text(content)
        look(live)
    [first, refused, last] = recorded
    assert first == (True, ("a.timeouts.idle 60s → 90s",))
    assert last == (True, ("a.timeouts.idle 90s → 60s",))
    assert refused[0] is False
    assert len(refused[1]) == 3
    assert all(line.startswith(f"{path}:") for line in refused[1])


def test_a_reload_restores_the_interpreter_settings(live: LiveConfig, path: Path) -> None:
    interval = sys.getswitchinterval()
    for content in (text("b"), "bad"):
        path.write_text(content)
        look(live)
        assert gc.isenabled()
        assert sys.getswitchinterval() == interval


def test_an_unreadable_file_changes_nothing_and_is_loaded_when_readable(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text(text())
    live = LiveConfig(Source(path, dict, IMPLEMENTED), sleep=clock.sleep)
    path.chmod(0)
    mine = os.geteuid()
    try:
        if mine == 0:
            os.seteuid(65534)  # nothing is forbidden to root
        look(live)
    finally:
        os.seteuid(mine)
    assert (names(live), live.error) == (["a"], f"{path}:1:1: cannot be read: Permission denied")
    path.chmod(0o600)
    path.write_text(text("b"))
    look(live)
    assert (names(live), live.error) == (["b"], None)


def test_a_file_without_its_closing_line_is_refused_until_complete(live: LiveConfig, path: Path) -> None:
    whole = "# >>> proxy.yaml\n" + text("b") + "  - {name: c, provider: mock}\n# <<< proxy.yaml\n"
    path.write_text(whole[:60])
    look(live)
    assert names(live) == ["a"]
    assert live.error is not None
    assert "cut short" in live.error
    path.write_text(whole)
    look(live)
    assert names(live) == ["b", "c"]
