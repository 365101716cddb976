"""`keys.py spend`, `logs` and `reconcile` on a real database, beside a server that writes to it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.cli.keys import main
from codellama_proxy.core.types import Usage
from codellama_proxy.store.sqlite.ledger import Ledger
from tests.support.ledger_fixtures import Store, ask, end, of_project

SCRIPT = Path(__file__).parents[2] / "scripts" / "keys.py"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three requests: one for 1.5 USD, one of unknown price, one that runs."""
    store = Store(tmp_path / "proxy.db")

    async def use(ledger: Ledger) -> None:
        for cost, user in ((1_500_000_000, "bob"), (None, "eve")):
            request = ask(of_project(max_budget=10**10), user=user, model_requested="\x1b[31mred")
            await ledger.admit(request)
            ledger.settle(end(request, cost, usage=Usage(3, 4), basis="exact" if cost else "estimated"))
        await ledger.admit(ask(of_project(max_budget=10**10)))

    store.run(use)
    return store


def run(store: Store, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments, "--database", str(store.path)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_spend_is_grouped(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(store, capsys, "spend", "--by", "project,user")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == [
        "PROJECT",
        "USER",
        "REQUESTS",
        "PROMPT_TOKENS",
        "COMPLETION_TOKENS",
        "COST_USD",
        "UNPRICED_REQUESTS",
    ]
    assert [line.split() for line in lines[1:-1]] == [
        ["web", "-", "1", "0", "0", "0.00", "0"],
        ["web", "bob", "1", "3", "4", "1.50", "0"],
        ["web", "eve", "1", "3", "4", "?", "1"],
    ]
    assert lines[-1] == "3 requests, 1.50 USD"


def test_spend_supports_json_and_since(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(store, capsys, "spend", "--json")
    found = json.loads(out)
    assert (found["total_cost_usd"], found["data"][0]["project"]) == (1.5, "web")
    with store.elsewhere() as db:
        db.execute("update requests set created_at = 1000.0")
    _, out, _ = run(store, capsys, "spend", "--json", "--since", "7d")
    assert json.loads(out)["total_requests"] == 0


@pytest.mark.parametrize("wrong", [("--by", "colour"), ("--since", "soon")])
def test_an_invalid_option_is_reported_in_one_sentence(
    store: Store, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    code, out, err = run(store, capsys, "spend", *wrong)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_reconcile_accepts_a_consistent_ledger(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(store, capsys, "reconcile")
    assert code == 0
    assert out.splitlines() == ["1 request without exact cost (estimated): 0.00 USD", "ok"]
    code, out, _ = run(store, capsys, "reconcile", "--json")
    assert json.loads(out) == {
        "ok": True,
        "differences": [],
        "not_exact": [{"basis": "estimated", "requests": 1, "cost_usd": 0.0}],
    }


def test_reconcile_reports_an_inconsistent_ledger(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with store.elsewhere() as db:
        db.execute("update scopes set held_nanos = 0, spent_nanos = 5")
    code, out, _ = run(store, capsys, "reconcile")
    assert code == 1
    assert "'project:web': spent 5 and held 0 nano-USD, but its requests add up to 1500000000 and 5" in out
    code, out, _ = run(store, capsys, "reconcile", "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)


def test_logs_are_printed_oldest_first(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(store, capsys, "logs")
    lines = out.splitlines()
    assert [line.split()[1] for line in lines] == ["ok", "ok", "held"]
    assert "1.50 USD" in lines[0]
    assert "? USD" in lines[1]
    assert "\x1b" not in out
    _, out, _ = run(store, capsys, "logs", "--last", "1", "--json")
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["held"]
    assert run(store, capsys, "logs", "--last", "0")[:2] == (0, "")
    assert run(store, capsys, "logs", "--last", "-1")[0] == 2


def test_following_logs_prints_each_request_once_when_it_ends(store: Store) -> None:
    command = [sys.executable, str(SCRIPT), "logs", "--follow", "--json", "--database", str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as follower:
        assert follower.stdout is not None

        def next_row() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(follower.stdout.readline())  # type: ignore[union-attr]
            return found

        seen = [next_row()["status"], next_row()["status"]]

        async def use(ledger: Ledger) -> None:
            later = ask()
            await ledger.admit(later)
            ledger.settle(end(later, status="cancelled"))
            await ledger.recover()  # the one that was held

        store.run(use)
        rows = [next_row(), next_row()]
        follower.send_signal(signal.SIGINT)
        rest, _ = follower.communicate(timeout=20)
    assert seen == ["ok", "ok"]
    assert sorted(row["status"] for row in rows) == ["cancelled", "error"]
    assert (rest, follower.returncode) == ("", 0)


def test_reports_work_while_the_server_runs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask()
        await ledger.admit(request)
        ledger.settle(end(request, 5))
        await store.writer.barrier()
        code, out, _ = await asyncio.to_thread(run, store, capsys, "spend", "--json")
        assert (code, json.loads(out)["total_requests"]) == (0, 4)

    store.run(use)


def test_spend_by_session_and_agent(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    async def use(ledger: Ledger) -> None:
        await ledger.admit(ask(session="s1", agent="a1"))

    store.run(use)
    code, out, _ = run(store, capsys, "spend", "--by", "agent,session", "--json")
    groups = [(group["session"], group["agent"], group["requests"]) for group in json.loads(out)["data"]]
    assert (code, groups) == (0, [(None, None, 3), ("s1", "a1", 1)])
