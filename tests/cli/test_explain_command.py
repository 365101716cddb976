"""The command `explain`: who is asked and why not, what limits it, and what happens when upstreams fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.config.load import load
from codellama_proxy.diagnostics.simulation import PlanError, parse
from tests.support.proxy_process import ADMIN, ProxyFactory, config, create_key, keys
from tests.support.upstream.process import Upstream

FILE = """
models:
- {name: codellama, provider: together, api_key: sk-planted, completions: true, price: {input: 1, output: 2}}
- {name: gpt-4, provider: openai, model: gpt-4.1, api_key: sk-planted, price: {input: 2, output: 8}}
- {name: claude, provider: anthropic, api_key: '${NOBODY_SETS_THIS}'}
- {name: vectors, provider: openai, api_key: sk-planted, mode: embedding}
- {name: spare, provider: mock, fallback: false}
guardrail: {system_prompt: Only code.}
limits: {key: {rpm_limit: 60}, project: {max_budget: 20, budget_duration: month}}
projects: {web: {limits: {rpm_limit: 600}, models: [codellama, 'gpt-*', vectors, claude]}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("PROXY_CONFIG", "PROXY_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "proxy.yaml").write_text(FILE)
    return tmp_path


def explained_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(["explain", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def timeline(capsys: pytest.CaptureFixture[str], plan: str, *arguments: str, code: int = 0) -> list[str]:
    assert main(["explain", "--project", "web", "--simulate", plan, *arguments]) == code
    _, _, found = capsys.readouterr().out.partition("Simulation (delays are half of their maximum):\n")
    return [" ".join(line.split()) for line in found.splitlines()]


def test_an_explanation_has_every_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--project", "web"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"key any of project web asks for the first model \(configuration [0-9a-f]{12}\)", lines[0]
    )
    shown = [re.sub(r"\([0-9a-f]{16}\)", "(KEY)", " ".join(line.split())) for line in lines[1:] if line]
    assert shown == [
        "Admitted. Prompt: about 5 tokens. Maximum cost: $0.034922.",
        "Held while it is in flight: $0.034922, max_tokens 4096 is sent upstream.",
        "Attempted in this order until one answers (equal weights in random order):",
        "DEPLOYMENT PROVIDER UPSTREAM MODEL STATE PRICE",
        "codellama#1 together codellama ready $1.00 in, $2.00 out per million",
        "gpt-4#1 openai gpt-4.1 ready $2.00 in, $8.00 out per million",
        "Not attempted:",
        "DEPLOYMENT STATE WHY",
        "vectors#1 another mode embedding",
        "spare#1 not allowed by project web",
        "claude#1 disabled NOBODY_SETS_THIS is not set",
        "Guardrail:",
        "Only code.",
        "Cache: an identical request of the same project shares the answer (KEY).",
        "Limits in force (assuming no usage yet):",
        "SCOPE LIMIT VALUE FROM",
        "project rpm_limit 600 projects.web.limits",
        "project max_budget $20.00 limits.project",
        "project budget_duration month limits.project",
        "key rpm_limit 60 limits.key",
    ]
    assert "sk-planted" not in "\n".join(lines)


def test_a_forbidden_model_is_refused_as_by_the_server(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained_json(capsys, "--project", "web", "--model", "spare", code=1)
    assert (found["error"]["status"], found["error"]["code"]) == (404, "model_not_found")
    assert found["chain"] == []
    assert (
        explained_json(capsys, "--project", "other", "--model", "spare")["chain"][0]["deployment"]
        == "spare#1"
    )


def test_an_embedding_request_is_explained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").write_text(FILE.replace("mode: embedding", "mode: embedding, price: {input: 1}"))
    found = explained_json(capsys, "--project", "web", "--endpoint", "embeddings")
    assert [(one["deployment"], one["guardrail"]) for one in found["chain"]] == [("vectors#1", None)]
    assert found["cache"]["state"] == "off: only chats are kept"
    assert found["max_tokens"] is None
    assert {"deployment": "codellama#1", "state": "another mode", "why": "chat"} in found["others"]
    body = here / "body.json"
    body.write_text('{"model": "vectors", "input": [[1, 2, 3]]}')
    assert (
        explained_json(capsys, "--project", "web", "--endpoint", "embeddings", str(body))["prompt_tokens"] > 0
    )
    assert main(["explain", "--project", "web", str(body)]) == 1
    assert "the request would get 400 missing_required_parameter" in capsys.readouterr().err


def test_a_completion_request_lists_the_models_that_complete(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = here / "body.json"
    body.write_text('{"prompt": "def f(", "suffix": ")", "max_tokens": 10}')
    found = explained_json(capsys, "--project", "web", "--endpoint", "completions", str(body))
    assert [(one["deployment"], one["guardrail"]) for one in found["chain"]] == [("codellama#1", None)]
    arguments = ["explain", "--project", "web", "--endpoint", "completions", "--simulate", "codellama: ok"]
    assert main(arguments) == 2
    assert "--simulate supports chats, messages and responses only" in capsys.readouterr().err


@pytest.mark.parametrize("endpoint", ["messages", "responses"])
def test_a_request_of_another_dialect_shows_what_its_translation_leaves_out(
    here: Path, capsys: pytest.CaptureFixture[str], endpoint: str
) -> None:
    body = here / "body.json"
    messages = [{"role": "user", "content": "hi"}]
    own: dict[str, Any] = (
        {"messages": messages, "max_tokens": 9} if endpoint == "messages" else {"input": "hi"}
    )
    body.write_text(json.dumps({"model": "codellama", "unheard_of": 1, **own}))
    arguments = ["--project", "web", "--endpoint", endpoint, str(body)]
    found = explained_json(capsys, *arguments)
    assert (found["endpoint"], found["error"]) == (endpoint, None)
    assert "unheard_of" in found["left_out"]
    assert "unheard_of" in found["chain"][0]["dropped_params"]
    assert main(["explain", *arguments]) == 0
    assert "Left out where the request is translated: " in capsys.readouterr().out
    assert explained_json(capsys, *arguments[:-1], "--body", str(body)) == found
    assert main(["explain", *arguments, "--body", str(body)]) == 2
    capsys.readouterr()
    assert explained_json(capsys, "--project", "web", "--endpoint", endpoint)["chain"]


def test_a_project_may_not_use_an_endpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = FILE.replace("projects: {web: {", "projects: {web: {endpoints: [chat, messages], ")
    (here / "proxy.yaml").write_text(text)
    for endpoint, code in (("messages", 0), ("chat/completions", 0), ("responses", 1)):
        found = explained_json(capsys, "--project", "web", "--endpoint", endpoint, code=code)
        assert (found["error"] or {}).get("code") == (None if code == 0 else "model_not_found")


def test_a_session_stays_on_one_deployment(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = "- {name: pair, provider: mock}\n- {name: pair, provider: mock}\n"
    (here / "proxy.yaml").write_text(f"models:\n{two}guardrail: {{system_prompt: Only code.}}\n")
    firsts = set()
    for session in map(str, range(20)):
        runs = [explained_json(capsys, "--project", "web", "--session", session) for _ in range(2)]
        assert runs[0]["chain"] == runs[1]["chain"]
        assert runs[0]["conversation"] == "the client's session id"
        firsts.add(runs[0]["chain"][0]["deployment"])
    assert firsts == {"pair#1", "pair#2"}


def test_a_keys_limits_and_its_projects_spend_are_shown(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = here / "data" / "proxy.db"
    made = create_key(database, "web", "--rpm", "5", "--models", "gpt-4")
    found = explained_json(capsys, "--key", made["key_id"])
    assert [one["deployment"] for one in found["chain"]] == ["gpt-4#1"]
    assert {"scope": "key", "limit": "rpm_limit", "value": 5, "from": "the key"} in found["limits"]
    assert ("codellama#1", "not allowed", "by the key") in [
        (one["deployment"], one["state"], one["why"]) for one in found["others"]
    ]
    keys(database, "block", made["key_id"])
    assert explained_json(capsys, "--key", made["key"][:11], code=1)["error"]["code"] == "key_blocked"


def test_the_hold_depends_on_the_body(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = here / "body.json"
    body.write_text('{"prompt": "hi", "max_tokens": 10, "model": "gpt-4"}')
    found = explained_json(capsys, "--project", "web", str(body))
    assert (found["max_tokens"], found["clamped"]) == (None, False)
    assert 0.002 < found["hold_usd"] == found["most_usd"] < 0.0024
    body.write_text('{"prompt": 1}')
    assert main(["explain", "--project", "web", str(body)]) == 1
    assert "400 invalid_type" in capsys.readouterr().err


def test_the_hold_is_for_cache_writes_where_those_cost_more(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = "- {name: %s, provider: %s, api_key: k, fallbacks: [], price: {input: 3, output: 0}}\n"
    (here / "proxy.yaml").write_text("models:\n" + entry % ("b", "openai") + entry % ("a", "anthropic"))
    most = [explained_json(capsys, "--project", "web", "--model", model)["most_usd"] for model in ("a", "b")]
    assert most[0] == pytest.approx(1.25 * most[1])


def test_the_cache_key_depends_on_request_and_scope(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = explained_json(capsys, "--project", "web")["cache"]
    assert (first["state"], first["scope"]) == ("used", "project web")
    assert explained_json(capsys, "--project", "web")["cache"] == first
    assert explained_json(capsys, "--project", "web", "--model", "gpt-4")["cache"]["key"] != first["key"]
    (here / "proxy.yaml").write_text(FILE + "cache: {enabled: false}\n")
    assert explained_json(capsys, "--project", "web")["cache"]["state"] == "off"


def test_a_simulation_shows_fallbacks_delays_and_cooldowns(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert timeline(capsys, "codellama: 429 retry-after 20; gpt-4: 500, ok after 1500ms") == [
        "0.000 s codellama#1 fails: busy (http_429)",
        "0.000 s gpt-4#1 fails: transient (http_500)",
        "0.000 s waits 0.125 s",
        "0.125 s gpt-4#1 answers after 1.5 s",
        "1.625 s codellama#1 now cools until 20 s (http_429)",
        "1.625 s the caller gets the answer of gpt-4#1",
    ]


def test_simulated_timeouts_show_their_duration_without_waiting(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "proxy.yaml").write_text(
        FILE + "timeouts: {answer: 100s}\nrouting: {deadline: 150s, retries: 0}\n"
    )
    assert timeline(capsys, "codellama: timeout; gpt-4: timeout", code=1) == [
        "0.000 s codellama#1 fails after 75 s: transient (answer_timeout)",
        "75.000 s gpt-4#1 fails after 75 s: transient (answer_timeout)",
        "150.000 s the caller gets 504 deadline_exceeded: No upstream answered before the deadline.",
    ]


def test_a_client_error_ends_the_attempts_unless_fallback_on_allows_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(timeline(capsys, "codellama: 400", code=1)) == 2
    assert timeline(capsys, "codellama: 400 context_length_exceeded")[-1].endswith("the answer of gpt-4#1")


@pytest.mark.parametrize(
    "plan",
    ["codellama", "nobody: 500", "gpt-4: 42", "gpt-4: 500 after", "gpt-4: 500 retry-after x", "gpt-4: 200"],
)
def test_an_invalid_simulation_plan_is_refused(here: Path, plan: str) -> None:
    with pytest.raises(PlanError):
        parse(plan, load(FILE.encode(), {}, implemented=frozenset({"together", "openai", "mock"})))
    assert main(["explain", "--project", "web", "--simulate", plan]) == 2


def test_an_invalid_file_is_reported_as_by_check(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").write_text("models: []\nroutng: {}\n")
    assert main(["explain", "--project", "web"]) == 1
    assert 'proxy.yaml:2:1: routng: unknown key "routng"' in capsys.readouterr().err


def test_cooldowns_are_read_from_a_running_proxy(
    here: Path,
    proxy: ProxyFactory,
    upstream: Upstream,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = config(
        upstream.model("hot", "status=429;retry_after=60", fallbacks=["cool"]), upstream.model("cool")
    )
    served = proxy(text)
    assert served.chat().headers["x-proxy-model"] == "cool"
    (here / "proxy.yaml").write_text(text)
    arguments = ("--project", "default", "--server", served.url)
    assert main(["explain", *arguments]) == 2, "only an administrator may ask"
    assert main(["explain", *arguments, "--simulate", "cool: 500"]) == 2
    monkeypatch.setenv("PROXY_MASTER_KEY", ADMIN)
    first, last = explained_json(capsys, *arguments)["chain"]
    assert (first["deployment"], first["state"]) == ("cool#1", "ready")
    assert (last["deployment"], last["state"]) == ("hot#1", "cooling")
    assert re.fullmatch(r"http_429, [56]\d s more", last["why"])
    assert main(["explain", "--project", "default", "--server", "http://127.0.0.1:9"]) == 1


def test_a_closed_pipe_is_not_an_error(here: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "codellama_proxy", "explain", "--project", "web"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        explained_json = process.stderr.read()
    assert (process.returncode, explained_json) == (0, b"")


# --- aliases and conversations -----------------------------------------------------------------------------

TWINS = """
models:
- {name: twins, provider: mock, model: one}
- {name: twins, provider: mock, model: two, weight: 3}
aliases: {'claude-*': twins}
"""


def test_the_reasons_for_not_being_a_fallback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").write_text("""
models:
  - {name: above, provider: mock}
  - {name: asked, provider: mock}
  - {name: off, provider: mock, fallback: false}
  - {name: below, provider: mock}
  - {name: far, provider: mock}
routing: {max_attempts: 2}
""")
    others = explained_json(capsys, "--project", "web", "--model", "asked")["others"]
    assert {(one["deployment"], one["why"]) for one in others if one["state"] == "not a fallback"} == {
        ("above#1", "not in the fallbacks of asked"),
        ("off#1", "fallback: false"),
        ("far#1", "beyond routing.max_attempts"),
    }


def test_an_alias_and_the_conversation_are_explained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").write_text(TWINS)
    assert main(["explain", "--project", "web", "--model", "claude-x"]) == 0
    out = capsys.readouterr().out
    assert "asks for the model claude-x, an alias of twins (configuration" in out
    by = "its conversation stays on one deployment of a name, by the key, the system prompt"
    assert f"({by} and the first user message):" in out
    told = explained_json(capsys, "--project", "web", "--model", "claude-x")
    assert (told["alias_of"], told["model"]) == ("twins", "claude-x")
    assert told["conversation"] == "the key, the system prompt and the first user message"


def test_the_conversation_decides_the_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "proxy.yaml").write_text(TWINS)
    firsts = []
    for n in range(20):
        (here / "body.json").write_text(json.dumps({"prompt": "hi", "prompt_cache_key": f"task {n}"}))
        told = explained_json(capsys, "body.json", "--project", "web")
        assert told["conversation"] == "prompt_cache_key"
        firsts.append(told["chain"][0]["deployment"])
    assert firsts.count("twins#2") > firsts.count("twins#1") > 0
    (here / "proxy.yaml").write_text(f"{TWINS}routing: {{sticky: false}}\n")
    assert explained_json(capsys, "--project", "web")["conversation"] is None


def test_without_a_caller_it_is_one_without_a_key(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 2
    assert "requires a key: give --project NAME" in capsys.readouterr().err
    (here / "proxy.yaml").write_text(FILE + "auth: {required: false}\n")
    found = explained_json(capsys)
    assert (found["key_id"], found["project"]) == ("none", "anonymous")
    assert {one["scope"].partition(":")[0] for one in found["limits"]} == {"project"}
