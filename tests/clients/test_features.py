"""What agents do beyond calling a shell: searches, subagents, summaries, schemas, pictures, their own failures."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.clients.conftest import RunAgent, requests
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream
from tests.support.upstream.shell import OUTPUT

CLAUDE_CODE = pytest.mark.parametrize("agent", ["claude-code"], indirect=True)
CODEX = pytest.mark.parametrize("agent", ["codex"], indirect=True)
FINISHED = f"The tool returned {OUTPUT}."
ALL_TOOLS = {"ENABLE_TOOL_SEARCH": "false"}
"""Claude Code offers all its tools at once."""
CLAUDE = ("--dangerously-skip-permissions", "-p")
CODEX_EXEC = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "from": {"type": "string"}},
    "required": ["answer", "from"],
    "additionalProperties": False,
}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
OVERFLOW = quote(
    "This model's maximum context length is 8192 tokens. However, your messages have 9000 tokens."
)


def calling(tool: str, **arguments: Any) -> str:
    """The script of a model that calls a tool once, and repeats what it returned."""
    return "call=" + quote(f"{tool}{json.dumps(arguments)}")


def serving(proxy: ProxyFactory, upstream: Upstream, script: str) -> Proxy:
    return proxy(
        config(
            upstream.model("coder", script),
            aliases={"claude-*": "coder", "gpt-*": "coder"},
            routing={"max_attempts": 1, "cooldown": {"failures": 1000}},
        )
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "shot.png"
    path.write_bytes(PIXEL)
    return path


# --- Claude Code -------------------------------------------------------------------------------------------------


@CLAUDE_CODE
def test_a_search_without_a_provider_for_it_says_so(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent
) -> None:
    served = serving(proxy, upstream, calling("WebSearch", query="weather in Oslo"))
    done = run(served, "claude-opus-5-5", served.key, env=ALL_TOOLS)
    assert done.code == 0, done.output
    assert "web_search is not available" in done.output
    statuses = [line["http_status"] for line in requests(served, "messages")]
    assert statuses == [200, 400, 200]


@CLAUDE_CODE
def test_a_subagent_is_told_apart(upstream: Upstream, proxy: ProxyFactory, run: RunAgent) -> None:
    task = {
        "description": "Look",
        "prompt": "Look around.",
        "subagent_type": "Explore",
        "run_in_background": False,
    }
    served = serving(proxy, upstream, calling("Agent", **task))
    done = run(served, "claude-opus-5-5", served.key, env=ALL_TOOLS)
    assert done.code == 0, done.output
    assert "Nothing was called." in done.output
    rows = served.rows()
    assert len({row["session"] for row in rows}) == 1
    assert {row["agent"] is None for row in rows} == {True, False}


@CLAUDE_CODE
def test_a_conversation_is_summarized(upstream: Upstream, proxy: ProxyFactory, run: RunAgent) -> None:
    served = serving(proxy, upstream, "shell|shell|say=The summary of it all.|say=Going on.")
    assert FINISHED in run(served, "coder", served.key).output
    compact = run(served, "coder", served.key, arguments=("--continue", *CLAUDE, "/compact"))
    assert compact.code == 0, compact.output
    after = run(served, "coder", served.key, arguments=("--continue", *CLAUDE, "Go on."))
    assert "Going on." in after.output
    assert "The summary of it all." in json.dumps(upstream.journal.bodies()[-1]["messages"])
    assert {row["status"] for row in served.rows()} == {"ok"}


@CLAUDE_CODE
def test_an_answer_follows_a_schema(upstream: Upstream, proxy: ProxyFactory, run: RunAgent) -> None:
    served = serving(proxy, upstream, calling("StructuredOutput", answer=42, **{"from": "coder"}))
    asked = (*CLAUDE, "Answer.", "--output-format", "json", "--json-schema", json.dumps(SCHEMA))
    done = run(served, "coder", served.key, arguments=asked)
    assert done.code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["structured_output"] == {"answer": 42, "from": "coder"}


@CLAUDE_CODE
def test_a_picture_that_is_read_is_sent(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent, picture: Path
) -> None:
    served = serving(proxy, upstream, calling("Read", file_path=str(picture)))
    done = run(served, "claude-opus-5-5", served.key)
    assert done.code == 0, done.output
    assert "data:image/png;base64," in json.dumps(upstream.journal.bodies()[-1]["messages"])


@CLAUDE_CODE
def test_a_full_context_window_is_named(upstream: Upstream, proxy: ProxyFactory, run: RunAgent) -> None:
    served = serving(proxy, upstream, f"status=400;code=context_length_exceeded;message={OVERFLOW}")
    done = run(served, "coder", served.key)
    assert "prompt is too long" in done.output.lower()
    assert done.requests <= 4, done.output


@CLAUDE_CODE
def test_an_overloaded_upstream_is_waited_for(upstream: Upstream, proxy: ProxyFactory, run: RunAgent) -> None:
    served = serving(proxy, upstream, "status=529;retry_after=1|status=529;retry_after=1|shell")
    done = run(served, "coder", served.key)
    assert FINISHED in done.output
    assert done.requests == 4


# --- Codex -------------------------------------------------------------------------------------------------------


@CODEX
def test_an_overloaded_upstream_is_waited_for_by_codex(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent
) -> None:
    served = serving(proxy, upstream, "status=529;retry_after=1|status=529;retry_after=1|shell")
    done = run(served, "coder", served.key)
    assert FINISHED in done.output
    assert done.requests == 4


@CODEX
def test_a_full_context_window_is_named_by_codex(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent
) -> None:
    served = serving(proxy, upstream, f"status=400;code=context_length_exceeded;message={OVERFLOW}")
    done = run(served, "coder", served.key)
    assert "context window" in done.output
    assert done.requests == 1


@CODEX
def test_an_answer_of_codex_follows_a_schema(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    served = serving(proxy, upstream, "json")
    done = run(
        served, "coder", served.key, arguments=(*CODEX_EXEC, "--output-schema", str(schema), "Answer.")
    )
    assert done.code == 0, done.output
    assert json.dumps({"answer": 42, "from": "coder"}) in done.output
    form = upstream.journal.bodies()[-1]["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)


@CODEX
def test_a_picture_for_codex_is_sent(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent, picture: Path
) -> None:
    served = serving(proxy, upstream, "say=A pixel.")
    done = run(
        served, "coder", served.key, arguments=(*CODEX_EXEC, "--image", str(picture), "--", "What is it?")
    )
    assert "A pixel." in done.output
    assert "data:image/png;base64," in json.dumps(upstream.journal.bodies()[-1]["messages"])


@CODEX
def test_a_conversation_is_summarized_by_codex(
    upstream: Upstream, proxy: ProxyFactory, run: RunAgent
) -> None:
    full = "usage=150000,10"
    served = serving(proxy, upstream, f"shell;{full}|say=The summary of it all.|say=Going on.")
    limit = {'wire_api = "responses"': 'wire_api = "responses"', 'model = "coder"': COMPACT}
    done = run(served, "coder", served.key, edits=limit)
    assert done.code == 0, done.output
    assert "Going on." in done.output
    bodies = upstream.journal.bodies()
    assert not bodies[1].get("tools")
    assert "The summary of it all." in json.dumps(bodies[2]["messages"])


COMPACT = 'model = "coder"\nmodel_auto_compact_token_limit = 100000'


@CODEX
def test_websockets_are_refused_once(upstream: Upstream, proxy: ProxyFactory, run: RunAgent) -> None:
    served = serving(proxy, upstream, "shell")
    sockets = {'wire_api = "responses"': 'wire_api = "responses"\nsupports_websockets = true'}
    done = run(served, "coder", served.key, edits=sockets)
    assert done.code == 0, done.output
    assert FINISHED in done.output
    refused = [line for line in served.log_lines() if line.get("http_status") == 426]
    assert len(refused) == 1
