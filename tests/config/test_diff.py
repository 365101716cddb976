"""What a reload says has changed, in the file's words and without secrets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.diff import difference
from codellama_proxy.config.load import load
from codellama_proxy.core.snapshot import Snapshot
from tests.support.cases import each

IMPLEMENTED = frozenset({"openai", "mock"})
TWO = ["{name: codellama, provider: openai, api_key: k}", "{name: gpt-4, provider: openai, api_key: k}"]


def snapshot(*entries: str, more: str = "") -> Snapshot:
    return load(f"models: [{', '.join(entries)}]\n{more}".encode(), {}, implemented=IMPLEMENTED)


def one(keys: str) -> Snapshot:
    return snapshot(f"{{name: a, provider: openai, {keys}}}")


def settings(before: str, after: str) -> list[str]:
    return difference(snapshot(*TWO, more=before), snapshot(*TWO, more=after))


def test_an_unchanged_configuration_has_no_differences() -> None:
    assert difference(snapshot(*TWO), snapshot(*TWO, more="# a comment\n")) == []


def test_added_and_removed_models_are_named_once() -> None:
    new = "{name: claude-fast, provider: mock}"
    assert difference(snapshot(*TWO), snapshot(*TWO, new)) == ["models: +claude-fast"]
    assert difference(snapshot(*TWO, new), snapshot(*TWO)) == ["models: -claude-fast"]
    assert difference(snapshot(TWO[0]), snapshot(TWO[1])) == ["models: -codellama", "models: +gpt-4"]


def test_a_changed_order_shows_both_orders() -> None:
    assert difference(snapshot(*TWO), snapshot(*reversed(TWO))) == [
        "models: order codellama, gpt-4 → gpt-4, codellama"
    ]


def test_deployments_of_one_name_are_distinguished() -> None:
    before, after = snapshot(TWO[0]), snapshot(TWO[0], "{name: codellama, provider: mock}")
    assert difference(before, after) == ["models: +codellama#2"]
    assert difference(after, before) == ["models: -codellama#2"]
    slower = snapshot(TWO[0], "{name: codellama, provider: mock, weight: 2.5}")
    assert difference(after, slower) == ["codellama#2.weight 1 → 2.5"]


CHANGES = [
    ("api_key: k", "api_key: k2", "a.api_key changed"),
    ("api_key: k", "api_key: k, timeouts: {first_token: 10s}", "a.timeouts.first_token 30s → 10s"),
    ("api_key: k", "api_key: k, timeouts: {connect: 250ms}", "a.timeouts.connect 5s → 250ms"),
    ("api_key: k", "api_key: k, timeouts: {answer: 90s}", "a.timeouts.answer 3m → 90s"),
    ("api_key: k", "api_key: k, model: up", "a.model a → up"),
    ("api_key: k", "api_key: k, drop_params: true", "a.drop_params false → true"),
    ("api_key: k", "api_key: k, context_window: 8192", "a.context_window none → 8192"),
    ("api_key: k", "api_key: k, system_prompt: Be kind.", "a.system_prompt changed"),
    ("api_key: k", "api_key: k, params: {seed: 1}", "a.params changed"),
    ("api_key: k", "api_key: k, headers: {x-token: hidden}", "a.headers changed"),
    ("api_key: k", "api_key: k, price: {input: 1, output: 2}", "a.price changed"),
    (
        "api_key: k, price: {input: 1, output: 2}",
        "api_key: k, price: {input: 0.27, output: 2}",
        "a.price.input 1 → 0.27",
    ),
    ("api_key: k", "api_key: '${NO}'", "a disabled: NO is not set"),
    ("api_key: '${NO}'", "api_key: k", "a enabled"),
]


@each(("before", "after", "line"), CHANGES)
def test_a_changed_entry_names_the_changed_key(before: str, after: str, line: str) -> None:
    lines = difference(one(before), one(after))
    assert line in lines
    assert [other for other in lines if other != line and not other.startswith("models: ")] == []


def test_changed_fallbacks_show_both_lists() -> None:
    fewer = TWO[0].replace("api_key: k", "api_key: k, fallbacks: []")
    assert difference(snapshot(*TWO), snapshot(fewer, TWO[1])) == ["codellama.fallbacks [gpt-4] → []"]


SETTINGS = [
    ("", "routing: {retries: 2}", "routing.retries 1 → 2"),
    ("", "routing: {backoff: {initial: 1500ms}}", "routing.backoff.initial 250ms → 1.5s"),
    ("", "routing: {cooldown: {max_time: 1h}}", "routing.cooldown.max_time 10m → 1h"),
    (
        "",
        "routing: {fallback_on: [content_filter, context_length]}",
        "routing.fallback_on [context_length] → [content_filter, context_length]",
    ),
    ("", "guardrail: {system_prompt: x}", "guardrail.system_prompt changed"),
    ("", "guardrail: {client_system: drop}", "guardrail.client_system keep → drop"),
    ("", "limits: {key: {rpm_limit: 60}}", "limits.key.rpm_limit none → 60"),
    ("limits: {key: {max_budget: 20}}", "limits: {key: {max_budget: 19.99}}", "limits.key.max_budget 20 → 19.99"),
    ("", "projects: {web: {}}", "projects: +web"),
    ("projects: {web: {}}", "projects: {web: {limits: {rpm_limit: 1}}}", "projects.web.limits.rpm_limit none → 1"),
    ("projects: {web: {}}", "projects: {web: {models: [a, b]}}", "projects.web.models none → [a, b]"),
    ("projects: {web: {guardrail: x}}", "projects: {web: {guardrail: false}}", "projects.web.guardrail changed"),
    ("", "cache: {ttl: 7d}", "cache.ttl 1h → 7d"),
    ("", "cache: {semantic: {backend: gptcache, url: 'https://x'}}", "cache.semantic changed"),
    ("", "tracking: {promptlayer: {api_key: k}}", "tracking.promptlayer.api_key changed"),
    ("", "tracking: {requests: {retention: 1d}}", "tracking.requests.retention 30d → 1d"),
    ("", "auth: {required: false}", "auth.required true → false"),
    ("", "metrics: {public: true}", "metrics.public false → true"),
    ("", "server: {drain: 0}", "server.drain 25s → 0s"),
]  # fmt: skip


@each(("before", "after", "line"), SETTINGS)
def test_a_changed_setting_has_its_name_in_the_file(before: str, after: str, line: str) -> None:
    assert settings(before, after) == [line]


def test_a_changed_project_default_is_shown_once() -> None:
    projects = "projects: {a: {}, b: {}}\n"
    assert settings(projects, projects + "limits: {project: {rpm_limit: 9}}") == [
        "limits.project.rpm_limit none → 9"
    ]


SECRET = "sk-planted-0123456789"


@given(st.sampled_from(["api_key", "headers", "params", "system_prompt", "mock"]), st.booleans())
def test_no_line_shows_a_secret(place: str, arrives: bool) -> None:
    value = {"headers": f"{{a: {SECRET}}}", "params": f"{{a: {SECRET}}}", "mock": f"{{reply: {SECRET}}}"}
    key = f"{place}: {value.get(place, SECRET)}"
    old, new = snapshot(f"{{name: a, provider: mock, {key}}}"), snapshot("{name: a, provider: mock}")
    lines = difference(*((new, old) if arrives else (old, new)))
    assert len(lines) == 1
    assert SECRET not in lines[0]
