"""The command `check`: its three forms, its exit codes, and a real request through every model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.config.check_report import inspect, printed
from codellama_proxy.config.load import load
from codellama_proxy.config.problems import Problem
from codellama_proxy.core.clock import Time
from codellama_proxy.diagnostics.probe import ProbeResult, probe
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.upstream.pools import Pools
from tests.support.fake_internet import Internet, answer, good, refusal
from tests.support.proxy_process import config
from tests.support.upstream.process import Upstream

BAD = "models: []\nroutng: {}\nlimits: {key: {budget_duration: day}}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXY_CONFIG", raising=False)
    (tmp_path / "proxy.yaml").write_text(BAD)
    return tmp_path


def test_problems_are_printed_as_file_line_column_and_message(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        'proxy.yaml:2:1: routng: unknown key "routng"; did you mean "routing"?',
        "proxy.yaml:3:33: warning: limits.key.budget_duration: without max_budget it does nothing",
        "proxy.yaml: 1 error",
    ]


def test_the_json_output_has_every_problem(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "proxy.yaml"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert (output["file"], output["good"]) == ("proxy.yaml", False)
    assert output["problems"][0] == {
        "file": "proxy.yaml",
        "line": 2,
        "column": 1,
        "severity": "error",
        "message": 'routng: unknown key "routng"; did you mean "routing"?',
    }


def test_github_annotations_have_line_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "github"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "::error file=proxy.yaml,line=2,col=1,title=proxy.yaml::"
        'routng: unknown key "routng"; did you mean "routing"?',
        "::warning file=proxy.yaml,line=3,col=33,title=proxy.yaml::"
        "limits.key.budget_duration: without max_budget it does nothing",
    ]


def test_file_names_and_messages_are_escaped_in_annotations(tmp_path: Path) -> None:
    path = tmp_path / "a,b:c%.yaml"
    path.write_text('models: []\n"x\\n::error::y": 1\n')
    [line] = printed(inspect(path, {}, implemented=IMPLEMENTED), "github")
    assert "\n" not in line
    assert "a%2Cb%3Ac%25.yaml" in line
    assert "%0A::error::y" in line


def test_warnings_do_not_change_the_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").write_text("models: [{name: a, provider: openai, api_key: '${NO}'}]")
    assert main(["check"]) == 0
    assert "proxy.yaml is valid: 1 model ready, 1 entry disabled" in capsys.readouterr().out


def test_a_disabled_entry_is_counted_if_its_model_has_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "proxy.yaml").write_text(
        "models: [{name: a, provider: mock}, {name: a, provider: openai, api_key: '${NO}'}, "
        "{name: a, provider: groq, api_key: '${NO}'}]"
    )
    assert main(["check"]) == 0
    assert "proxy.yaml is valid: 1 model ready, 2 entries disabled" in capsys.readouterr().out


def test_a_problem_shows_its_severity_only_when_it_is_a_warning() -> None:
    assert str(Problem(1, 2, "x")) == "proxy.yaml:1:2: x"
    assert str(Problem(1, 2, "x", "warning")) == "proxy.yaml:1:2: warning: x"


# --- online ------------------------------------------------------------------------------------------------

FOUR = b"""
guardrail: {system_prompt: Only code.}
models:
- {name: good, provider: openai_compatible, base_url: 'https://h/v1', params: {seed: 1}}
- {name: locked, provider: openai_compatible, base_url: 'https://h/v1', system_prompt: false}
- {name: gone, provider: openai_compatible, base_url: 'https://h/v1'}
- {name: vectors, provider: openai_compatible, base_url: 'https://h/v1', mode: embedding}
- {name: text, provider: openai_compatible, base_url: 'https://h/v1', mode: completion}
- {name: off, provider: openai, api_key: '${NO}'}
"""


def probed(internet: Internet) -> list[ProbeResult]:
    snapshot = load(FOUR, {}, implemented=IMPLEMENTED)

    async def main() -> list[ProbeResult]:
        pools = Pools(internet.make)
        found = list(await probe(snapshot, pools, Time()))
        await pools.close()
        return found

    return asyncio.run(main())


def test_online_sends_one_guarded_request_to_every_enabled_model() -> None:
    internet = Internet(
        good=[good(streamed=False)],
        locked=[refusal(401, "bad key sk-1234567890")],
        gone=[refusal(500)],
        vectors=[answer(b'{"data": [{"embedding": [1.0]}]}')],
        text=[answer(b'{"choices": []}')],
    )
    found = probed(internet)
    assert [(one.deployment.id, one.works, one.message) for one in found] == [
        ("good#1", True, ""),
        (
            "locked#1",
            False,
            "401 credential: The upstream did not accept this proxy's credential or quota for the model.",
        ),
        ("gone#1", False, "500 transient: The upstream failed."),
        ("vectors#1", True, ""),
        ("text#1", False, "200 disguised: The upstream's answer was not valid."),
    ]
    sent = {one.deployment: one.body for one in internet.sent}
    assert sorted(internet.asked) == ["gone#1", "good#1", "locked#1", "text#1", "vectors#1"]
    assert sent["vectors#1"] == {"model": "vectors", "input": "OK"}
    assert sent["text#1"] == {"model": "text", "prompt": "Say OK.", "max_tokens": 16}
    assert sent["good#1"]["messages"][0] == {"role": "system", "content": "Only code."}
    assert sent["good#1"]["max_tokens"] == 16
    assert sent["good#1"]["seed"] == 1
    assert sent["locked#1"]["messages"][0]["role"] == "user"


def test_online_fails_if_one_model_fails(
    here: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "proxy.yaml").write_text(config(upstream.model("fine")))
    assert main(["check", "--online"]) == 0
    assert "fine#1" in capsys.readouterr().out
    (here / "proxy.yaml").write_text(config(upstream.model("fine"), upstream.model("sad", "status=429")))
    assert main(["check", "--online", "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert output["good"]
    assert [(one["deployment"], one["works"]) for one in output["online"]] == [
        ("fine#1", True),
        ("sad#1", False),
    ]
    assert "busy" in output["online"][1]["error"]
    assert [body["messages"][0]["role"] for body in upstream.journal.bodies()] == ["system"] * 3
    assert main(["check", "--online"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3].split() == ["DEPLOYMENT", "PROVIDER", "WORKS", "LATENCY", "ERROR"]
    assert shown[-1].split()[:3] == ["sad#1", "openai_compatible", "NO"]
