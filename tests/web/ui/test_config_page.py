"""The configuration page: values, problems, history and drafts, for the operator only."""

from __future__ import annotations

import pytest

from tests.support.browsing import Html, holder, operator
from tests.support.processes import until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config

KEY = "sk-upstream-0a1b2c3d4e5f6a7b8c9d"
LITERAL = "sk-written-in-the-file-0123456789"
MODELS = (
    {"name": "good", "provider": "mock"},
    {"name": "remote", "provider": "openai", "model": "gpt-4.1", "api_key": "${OPENAI_API_KEY}"},
    {"name": "literal", "provider": "openai", "model": "gpt-4.1", "api_key": LITERAL},
)
ENV = {"OPENAI_API_KEY": KEY}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config(*MODELS), env=ENV, allow=("plain text", "OPENAI"))


def test_values_and_file_are_shown_without_secrets(served: Proxy) -> None:
    answer = operator(served).get("config")
    page = Html(answer.text)
    assert "routing.max_attempts4" in page.words
    assert "${OPENAI_API_KEY}" in page.text
    for secret in (KEY, LITERAL, ADMIN, served.key):
        assert secret not in answer.text
    assert "the server started" in page.words


def test_a_key_holder_does_not_find_the_page(served: Proxy) -> None:
    browser = holder(served)
    missing = browser.get("nothing")
    for answer in (browser.get("config"), browser.post("config", {"draft": "models: []"})):
        assert (answer.status_code, answer.text) == (404, missing.text)


def test_a_draft_is_checked_compared_and_explained_but_not_applied(served: Proxy) -> None:
    browser = operator(served)
    draft = config(MODELS[0], {**MODELS[0], "name": "new"}, *MODELS[1:], routing={"max_attempts": 2})
    answer = browser.post("config", {"draft": draft, "model": "new", "plan": "new: 500, ok"})
    assert answer.status_code == 200
    page = Html(answer.text)
    assert "This draft is valid." in page.words
    assert "models: +new" in page.words
    assert "routing.max_attempts 4 → 2" in page.words
    assert "asks for the model new" in page.words
    assert "Simulation" in page.words
    for secret in (KEY, LITERAL, ADMIN):
        assert secret not in answer.text.replace(
            LITERAL, "", answer.text.count(LITERAL) if LITERAL in draft else 0
        )
    assert "new" not in served.admin("GET", "/health").text
    assert served.chat(model="new").status_code == 404


def test_problems_of_a_draft_are_shown_with_their_lines(served: Proxy) -> None:
    answer = operator(served).post("config", {"draft": "models:\n  - {name: a, provider: nobody}\n"})
    page = Html(answer.text)
    assert "This draft would be refused: 1 error." in page.words
    assert "#D2" in page.links()


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "PROXY_MASTER_KEY", "file:/etc/hostname"])
@pytest.mark.parametrize("field", ["name", "model", "system_prompt"])
def test_a_draft_shows_no_value_of_a_variable(served: Proxy, name: str, field: str) -> None:
    draft = config({"name": "x", "provider": "mock", field: f"${{{name}}}"})
    answer = operator(served).post("config", {"draft": draft})
    assert answer.status_code == 200
    with open("/etc/hostname") as file:  # noqa: PTH123 - as the draft names it
        host = file.read().strip()
    for secret in (KEY, ADMIN, *([host] if len(host) > 3 else [])):
        assert secret not in answer.text


def test_a_draft_that_is_too_large_is_refused(served: Proxy) -> None:
    answer = operator(served).post("config", {"draft": "#" * (1 << 20) + "\n#"})
    assert answer.status_code == 413


def test_text_of_a_draft_is_escaped(served: Proxy) -> None:
    xss = "<script>alert(1)</script>"
    draft = f"models:\n  - {{name: '{xss}', provider: mock}}\n'{xss}': 1\n"
    answer = operator(served).post("config", {"draft": draft, "project": xss, "model": xss, "plan": xss})
    assert answer.status_code == 200
    assert xss not in answer.text


def test_the_history_has_reloads_and_a_bad_file_is_shown(proxy: ProxyFactory) -> None:
    served = proxy(config(MODELS[0]))
    browser = operator(served)

    def history() -> str:
        return browser.page("config").words

    served.save(config(MODELS[0], routing={"max_attempts": 2}))
    until(lambda: "routing.max_attempts 4 → 2" in history(), "the first reload")
    digest = until(lambda: served.client.get("/health/readiness").json()["config"]["digest"], "a digest")
    assert digest in history()
    served.save(config({**MODELS[0], "weight": "heavy"}))
    until(lambda: "refused" in history(), "the refused file")
    page = browser.page("config")
    assert "an older configuration serves" in page.words
    assert any((span.get("class"), bool(span.get("title"))) == ("at", True) for span in page.all("span"))
    assert "configuration has a problem" in page.words
    served.save(config(MODELS[0]))
    until(lambda: "routing.max_attempts 2 → 4" in history(), "the last reload")
    assert "an older configuration serves" not in history()
