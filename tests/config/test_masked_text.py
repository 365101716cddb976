"""What people may see of proxy.yaml: everything but credentials."""

from __future__ import annotations

import pytest

from codellama_proxy.config.effective import effective
from codellama_proxy.config.load import load
from codellama_proxy.config.masked_text import HIDDEN, masked_lines
from codellama_proxy.core.masking import Mask

TEXT = """\
# api_key: sk-old-0123456789abcdef0123
models:
  - name: a
    provider: openai
    api_key: literal-key-of-an-entry
    headers:
      x-custom: secret-in-a-header
      x-plain: ${PLAIN}
  - {name: b, provider: openai, api_key: "flow-style-key-0123", weight: 2}
  - name: c
    provider: openai
    api_key: ${OPENAI_API_KEY}
  - name: d
    provider: openai
    api_key: ${OTHER:-default-key-in-the-file}
  - name: e
    provider: openai
    api_key: >-
      the-first-line-of-a-key

      short
    headers:
      authorization: "${SCHEME} literal-beside-a-variable"
      x-folded: ${SCHEME}
        a-literal-below-a-variable
  - name: f
    provider: openai
    # api_key: a-commented-key
    #   authorization: Bearer acommentedtoken
    #   api_key: ${OPENAI_API_KEY}
    # Keys: see the documentation of the provider.
egress: {proxy: "http://user:password-of-a-proxy@proxy.corp:3128"}
limits: {key: {rpm_limit: 60}}
# once more: literal-key-of-an-entry and known-value-of-a-variable
"""
SECRETS = (
    *("sk-old-0123456789abcdef0123", "literal-key-of-an-entry", "secret-in-a-header", "flow-style-key-0123"),
    *("the-first-line-of-a-key", "short", "literal-beside-a-variable", "a-literal-below-a-variable"),
    *("a-commented-key", "acommentedtoken"),
    *("default-key-in-the-file", "password-of-a-proxy", "known-value-of-a-variable"),
)


@pytest.mark.parametrize("text", [TEXT, TEXT + "broken: [\n", TEXT.replace("\n", "\r\n")])
def test_credentials_are_hidden_and_the_rest_is_as_written(text: str) -> None:
    lines = masked_lines(text.encode(), Mask(["known-value-of-a-variable"]))
    shown = "\n".join(lines)
    assert [secret for secret in SECRETS if secret in shown] == []
    assert len(lines) == len(text.splitlines())
    assert "    api_key: ${OPENAI_API_KEY}" in lines
    assert "      x-plain: ${PLAIN}" in lines
    assert "    #   api_key: ${OPENAI_API_KEY}" in lines
    assert "    # Keys: see the documentation of the provider." in lines
    assert f"    api_key: {HIDDEN}" in lines
    assert "limits: {key: {rpm_limit: 60}}" in lines


def test_effective_values_say_what_is_a_default_and_hide_what_came_from_variables() -> None:
    text = (
        'models:\n  - {name: a, provider: mock, weight: 3}\n  - {name: o, provider: openai, api_key: "${KEY}"}\n'
        'routing: {retries: "${RETRIES}", deadline: 60s}\n'
    )
    environ = {"KEY": "sk-secret-0123456789", "RETRIES": "2"}
    snapshot = load(text.encode(), environ, implemented=frozenset({"mock", "openai"}))
    values = {one.name: one for one in effective(snapshot)}
    assert values["routing.deadline"] == ("routing.deadline", "60s", False)
    assert values["routing.backoff.initial"] == ("routing.backoff.initial", "250ms", True)
    assert values["routing.retries"].text == "(hidden)"
    assert values["a#1.weight"].text == "3"
    assert values["o#1.api_key"].text == "(hidden)"
    assert values["tracking.requests.retention"] == ("tracking.requests.retention", "30d", True)
    assert values["auth.required"].is_default
    assert "sk-secret" not in str(values)
    assert not any("is_set" in name for name in values)
