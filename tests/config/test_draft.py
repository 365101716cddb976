"""Drafts are checked without putting secrets into them, and without reading files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama_proxy.config.draft import Checked, check
from codellama_proxy.config.live import Source
from codellama_proxy.config.masked_text import masked_lines
from codellama_proxy.core.masking import mask_of
from codellama_proxy.diagnostics.what_if import explained

SECRETS = {
    "OPENAI_API_KEY": "sk-upstream-4f9a8b7c6d5e4f3a2b1c",
    "PROXY_MASTER_KEY": "master-0a1b2c3d4e5f6a7b8c9d",
    "PIN": "4711004711",
    "LIMIT": "7",
    "HOME": "/home/somebody-unusual",
}
SERVED = """\
models:
  - {name: a, provider: mock}
  - {name: o, provider: openai, model: gpt-4.1, api_key: "${OPENAI_API_KEY}"}
routing: {max_attempts: "${LIMIT}"}
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "proxy.yaml"
    path.write_text(SERVED)
    return Source(path, lambda: SECRETS, frozenset({"openai", "mock"}))


def checked(source: Source, draft: str) -> Checked:
    state = source.read()
    return check(draft.encode(), state.text, source.build(state), source)


def everything_said(found: Checked) -> str:
    said = [str(found.problems), *found.changes, *found.unchecked]
    if found.snapshot is not None:
        for project, plan in (("default", ""), ("${PROXY_MASTER_KEY}", "a: 500, ok")):
            said += explained(found.snapshot, project, None, plan, 0.0)
        said.append(str(found.snapshot.warnings))
    return "\n".join(said)


def test_the_text_in_force_changes_nothing(source: Source) -> None:
    found = checked(source, SERVED)
    assert found.changes == ()
    assert [problem for problem in found.problems if problem.severity == "error"] == []


def test_entries_keep_their_values_when_they_move(source: Source) -> None:
    draft = SERVED.replace("models:\n", "models:\n  - {name: new, provider: mock}\n")
    assert checked(source, draft).changes == ("models: +new",)


def test_a_change_is_described_without_its_secret(source: Source) -> None:
    draft = SERVED.replace("${OPENAI_API_KEY}", "${PIN}").replace(
        "provider: mock}", "provider: mock, weight: 2}"
    )
    assert checked(source, draft).changes == ("a.weight 1 → 2", "o.api_key changed")


@pytest.mark.parametrize(
    "reference", ["${OPENAI_API_KEY}", "${PROXY_MASTER_KEY}", "${PIN}", "${HOME}", "${LIMIT}"]
)
@pytest.mark.parametrize(
    "place",
    [
        '{{name: "{}", provider: mock}}',
        '{{name: x, provider: mock, model: "{}"}}',
        '{{name: x, provider: openai, api_key: k1, base_url: "https://{}.example.com"}}',
        '{{name: x, provider: mock, weight: "{}"}}',
        '{{name: x, provider: openai, api_key: k1, headers: {{x-some: "{}"}}}}',
        '{{name: x, provider: mock, system_prompt: "say {}"}}',
        '{{name: x, provider: mock, fallbacks: ["{}"]}}',
        '{{name: x, provider: "{}"}}',
        '{{name: x, provider: mock, "{}": 1}}',
    ],
)
def test_no_value_of_a_variable_is_shown(source: Source, reference: str, place: str) -> None:
    draft = f"models:\n  - {place.format(reference)}\n"
    said = everything_said(checked(source, draft))
    for name, secret in SECRETS.items():
        if name != "LIMIT":
            assert secret not in said
    assert f"({SECRETS['LIMIT']})" not in said


def test_a_number_of_the_file_in_force_is_used_only_at_its_place(source: Source) -> None:
    found = checked(source, SERVED + 'limits: {key: {rpm_limit: "${LIMIT}"}}\n')
    assert found.unchecked == ("limits.key.rpm_limit",)
    assert found.snapshot is not None
    assert found.snapshot.routing.max_attempts == 7
    assert found.snapshot.limits["key"].rpm_limit is None


def test_no_file_is_opened(source: Source, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123-value-of-a-file")
    secret.chmod(0)
    opened: list[str] = []
    draft = f'models:\n  - {{name: "${{file:{secret}}}", provider: mock}}\negress: {{ca_bundle: {secret}}}\n'
    watch(opened)
    found = checked(source, draft)
    assert not any(str(secret) in path for path in opened)
    assert "egress.ca_bundle" in found.unchecked
    assert "models.0.name" in found.unchecked


def watch(opened: list[str]) -> None:
    """Writes down what this process opens from now on."""
    sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)


def test_problems_have_their_place_in_the_draft(source: Source) -> None:
    found = checked(source, "models:\n  - {name: a, provider: mock}\nnonsense: 1\n")
    assert [(problem.line, problem.source) for problem in found.problems] == [(3, "draft")]
    assert found.snapshot is None
    assert checked(source, "models: [").problems
    assert checked(source, "").problems


def test_the_report_of_a_short_chat_follows_the_draft(source: Source) -> None:
    found = checked(source, SERVED.replace("name: a", "name: b"))
    assert found.snapshot is not None
    report = "\n".join(explained(found.snapshot, "default", "b", "b: 500, 500; o: ok", 0.0))
    assert "asks for the model b" in report
    assert "the caller gets the answer of o#1" in report
    assert "no such" not in report
    unknown = "\n".join(explained(found.snapshot, "default", "none", "", 0.0))
    assert "404 model_not_found" in unknown
    assert "nonsense" in "\n".join(explained(found.snapshot, "default", None, "nonsense", 0.0))


def test_what_is_shown_has_no_secret_of_the_file_in_force(source: Source) -> None:
    snapshot = source.build(source.read())
    draft = json.dumps({"models": [{"name": SECRETS["OPENAI_API_KEY"], "provider": "mock"}]})
    said = everything_said(checked(source, draft))
    assert mask_of(snapshot)(said) == said


def test_an_environment_that_cannot_be_read_is_a_problem(source: Source) -> None:
    def unreadable() -> dict[str, str]:
        raise PermissionError(13, "Permission denied")

    state = source.read()
    found = check(b"models: []", state.text, source.build(state), replace(source, environ=unreadable))
    assert "cannot be read: Permission denied" in found.problems[0].message


fragments = st.sampled_from(
    (
        *("models:", "- name: a", "  provider: mock", "  api_key: ", "${OPENAI_API_KEY}", "${X:-y}", "${"),
        *("{", "}", "[", "]", "limits: ", "key: ", "rpm_limit: ", "egress:", "  ca_bundle: /etc/hostname"),
        *("&a ", "*a", "\n", "  ", "'", '"', ": ", "projects:", "aliases: {x: a}", "routing:"),
        *("max_attempts: ", "${LIMIT}", "- ", "null", "1", "headers: {x: y}"),
    )
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(fragments, max_size=25).map("".join) | st.text(max_size=80))
def test_any_draft_has_a_result(source: Source, draft: str) -> None:
    state = source.read()
    found = check(draft.encode(errors="replace"), state.text, source.build(state), source)
    assert (found.snapshot is None) == any(problem.severity == "error" for problem in found.problems)
    lines = masked_lines(draft.encode(errors="replace"), mask_of(source.build(state)))
    assert not any(secret in "".join(lines) for secret in SECRETS.values() if len(secret) > 2)
