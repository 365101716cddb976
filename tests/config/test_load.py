"""proxy.yaml to a snapshot: what it builds, and every complaint with its line and column."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.load import load
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.validate.messages import A_LIST, A_MAPPING
from codellama_proxy.config.yaml import parser_messages as yaml_words
from codellama_proxy.core.snapshot import Limits, Mock, Price, Secret, Snapshot, Tariff
from codellama_proxy.routing.selection import requested_model
from tests.support.cases import each

IMPLEMENTED = frozenset({"openai", "together", "anthropic", "azure", "vllm", "openai_compatible", "mock"})
SHIPPED = (Path(__file__).parents[2] / "proxy.yaml").read_bytes()
KEYS = {"TOGETHER_API_KEY": "t-key", "OPENAI_API_KEY": "o-key", "ANTHROPIC_API_KEY": "a-key"}


def loaded(text: str | bytes, **environ: str) -> Snapshot:
    content = text.encode() if isinstance(text, str) else text
    return load(content, environ, implemented=IMPLEMENTED)


def attempted(content: bytes, **environ: str) -> tuple[Snapshot | None, tuple[Problem, ...]]:
    try:
        return loaded(content, **environ), ()
    except ConfigError as error:
        return None, error.errors


def errors_of(text: str | bytes, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, **environ)
    usual = (LITERAL_KEY, NO_GUARDRAIL)
    return [str(p) for p in caught.value.problems if not any(words in p.message for words in usual)]


def starting_model(snapshot: Snapshot, mode: str = "chat") -> str:
    return requested_model(snapshot, None, mode, lambda _: True).name


LITERAL_KEY = "anyone who can read the file can read this key"
"""Said of every key that stands in a file itself; tests of anything else do not repeat it."""
NO_GUARDRAIL = "guardrail: missing"
ENTRY = "models: [{name: a, provider: openai, api_key: k%s}]\n"


def entry(keys: str, more: str = "", **environ: str) -> Snapshot:
    return loaded(ENTRY % (", " + keys) + more, **environ)


# --- who serves what ---------------------------------------------------------------------------------------

KINDS = """
models:
  - {name: chat, provider: openai, api_key: k}
  - {name: text, provider: openai, api_key: k, mode: completion}
  - {name: both, provider: together, api_key: k, completions: true}
  - {name: vectors, provider: vllm, base_url: https://x.example/v1, mode: embedding}
  - {name: claude, provider: anthropic, api_key: k, mode: completion}
"""


def test_a_model_serves_its_mode_and_configured_endpoints() -> None:
    models = loaded(KINDS).models
    serving = {
        mode: [name for name, model in models.items() if model.deployments[0].serves(mode)]
        for mode in ("chat", "completion", "embedding")
    }
    assert serving == {"chat": ["chat", "both"], "completion": ["text", "both"], "embedding": ["vectors"]}
    assert models["text"].fallbacks == ("both",)
    assert models["chat"].fallbacks == ("both",)
    assert starting_model(loaded(KINDS), "completion") == "text"


def test_an_entry_whose_provider_lacks_its_mode_is_disabled() -> None:
    [claude] = loaded(KINDS).disabled
    assert (claude.name, claude.disabled) == ("claude", "provider anthropic has no mode completion")
    assert any("provider anthropic has no mode completion" in one for one in loaded(KINDS).warnings)


# --- the shipped file --------------------------------------------------------------------------------------


def test_the_shipped_file_with_all_keys_falls_back_in_file_order_and_never_to_the_mock() -> None:
    snapshot = loaded(SHIPPED, **KEYS)
    assert [(model.name, model.fallbacks) for model in snapshot.models.values()] == [
        ("codellama", ("gpt-4", "claude")),
        ("gpt-4", ("claude",)),
        ("claude", ()),
        ("mock", ()),
    ]
    assert starting_model(snapshot) == "codellama"
    assert snapshot.warnings == ()
    assert snapshot.models["gpt-4"].deployments[0].model == "gpt-4.1"
    assert snapshot.models["gpt-4"].deployments[0].api_key == Secret("o-key")


def test_the_shipped_file_has_the_documented_guardrail() -> None:
    guardrail = loaded(SHIPPED).guardrail
    assert guardrail.system_prompt == (
        "Only respond to questions about code. Say 'I don't know' to anything outside of that."
    )
    assert guardrail.client_system == "keep"


def test_the_shipped_file_without_keys_uses_the_mock_with_reasons() -> None:
    snapshot = loaded(SHIPPED)
    assert list(snapshot.models) == ["mock"]
    assert starting_model(snapshot) == "mock"
    assert snapshot.warnings == (
        "codellama is disabled: TOGETHER_API_KEY is not set",
        "gpt-4 is disabled: OPENAI_API_KEY is not set",
        "claude is disabled: ANTHROPIC_API_KEY is not set",
    )
    assert [d.id for d in snapshot.disabled] == ["codellama#1", "gpt-4#1", "claude#1"]


def test_commented_out_settings_of_the_shipped_file_are_the_defaults() -> None:
    shown = re.sub(rb"(?m)^#(?=[a-z]|  [a-z])", b"", SHIPPED)
    assert shown.count(b"\n#") < SHIPPED.count(b"\n#") - 25
    snapshot, opened = loaded(SHIPPED), loaded(shown)
    assert opened.limits["key"].given  # somebody wrote `null` down, and it means what it meant before
    plain = MappingProxyType(
        {scope: replace(limits, given=frozenset()) for scope, limits in opened.limits.items()}
    )
    assert replace(opened, digest=snapshot.digest, limits=plain) == snapshot


def test_the_shipped_file_loads_quickly() -> None:
    loaded(SHIPPED)
    started = time.process_time()
    loaded(SHIPPED)
    assert time.process_time() - started < 1


def test_a_truncated_shipped_file_is_refused_or_equivalent() -> None:
    whole = replace(loaded(SHIPPED, **KEYS), digest="")
    good = []
    for end in range(len(SHIPPED)):
        snapshot, problems = attempted(SHIPPED[:end], **KEYS)
        assert problems or (snapshot is not None and replace(snapshot, digest="") == whole)
        good += [] if problems else [end]
    assert good == [len(SHIPPED) - 1], "only the last line's end is dispensable"


def test_a_truncated_file_is_reported_as_truncated() -> None:
    text = "# >>> proxy.yaml\nmodels: []\n"
    assert errors_of(text) == [
        "proxy.yaml:3:1: the file is cut short: its last line should begin # <<< proxy.yaml"
    ]
    assert loaded(text + "# <<< proxy.yaml").models


@given(st.binary(max_size=40), st.integers(0, len(SHIPPED)))
def test_inserted_bytes_are_loaded_or_refused(noise: bytes, at: int) -> None:
    snapshot, problems = attempted(SHIPPED[:at] + noise + SHIPPED[at:])
    assert snapshot or problems
    assert all(p.line > 0 and p.column > 0 for p in problems)


# --- immutability ------------------------------------------------------------------------------------------

EVERYTHING = """
models:
  - name: a
    provider: azure
    model: up
    base_url: https://x.openai.azure.com/
    api_key: ${KEY}
    price: {input: 0.1, output: 2.000000001, cached_input: 0}
    context_window: 8192
    max_output_tokens: 1000
    weight: 0.5
    timeouts: {connect: 250ms, answer: 2m}
    params: {temperature: 0.25, guided_json: [x, {y: [1, null, true]}]}
    headers: {X-Thing: "1"}
    system_prompt: false
    drop_params: true
    deployment: d
    api_version: "2024-10-21"
    base_model: gpt-4.1
  - name: a
    provider: openai
    api_key: k
    fallbacks: [m, b, m]
  - {name: b, provider: anthropic, api_key: k, timeouts: }
  - {name: m, provider: mock, mock: {reply: hi, first_token_delay: 1.5, status: 503}}
timeouts: {idle: 10}
routing: {fallback_on: [content_filter, context_length], backoff: {max: 1m}, unknown_model: default}
limits:
  global: {max_budget: 500, budget_duration: month}
  project: {rpm_limit: 300, max_budget: 20.5}
projects:
  web-team: {limits: {rpm_limit: null, tpm_limit: 0}, models: [a, "m*"], guardrail: Be kind., cache: false}
  open: {guardrail: false}
cache: {ttl: 5m, semantic: {backend: gptcache, url: "http://127.0.0.1:8000"}}
tracking: {promptlayer: {tags: [x, y]}, requests: {retention: 7d}}
server: {max_body: 1.5MiB, drain: 0, cors_origins: ["https://app.example.com"]}
auth: {required: false}
metrics: {public: true}
"""

MUTABLE = (list, dict, set, bytearray)


def mutable_parts(value: Any, path: str = "snapshot") -> list[str]:
    if isinstance(value, MUTABLE):
        return [path]
    if is_dataclass(value):
        frozen = type(value).__dataclass_params__.frozen  # type: ignore[attr-defined]
        inner = [p for f in fields(value) for p in mutable_parts(getattr(value, f.name), f"{path}.{f.name}")]
        return inner if frozen else [path, *inner]
    if isinstance(value, Mapping):
        return [p for name, item in value.items() for p in mutable_parts(item, f"{path}[{name}]")]
    if isinstance(value, tuple | frozenset):
        return [p for item in value for p in mutable_parts(item, f"{path}[]")]
    return []


@pytest.mark.parametrize("text", [EVERYTHING.encode(), SHIPPED, b"models: []"])
def test_a_snapshot_is_deeply_immutable(text: bytes) -> None:
    assert mutable_parts(loaded(text, KEY="k")) == []


def test_the_immutability_check_finds_a_list() -> None:
    assert mutable_parts(Mock(reply=["not frozen"])) == ["snapshot.reply"]  # type: ignore[arg-type]


def test_every_setting_reaches_the_snapshot() -> None:
    snapshot = loaded(EVERYTHING, KEY="secret")
    first, second = snapshot.models["a"].deployments
    assert (first.id, second.id) == ("a#1", "a#2")
    assert first.price == Price(input=100_000_000, output=2_000_000_001, cached_input=0)
    assert first.timeouts.connect == 0.25
    assert first.timeouts.answer == 120
    assert first.timeouts.idle == second.timeouts.idle == 10
    assert first.params == {"temperature": 0.25, "guided_json": ("x", {"y": (1, None, True)})}
    assert first.headers == {"x-thing": "1"}
    assert first.base_url == "https://x.openai.azure.com"
    assert first.system_prompt is False
    assert second.system_prompt is None
    assert first.extra == {"deployment": "d", "api_version": "2024-10-21"}
    assert snapshot.models["a"].fallbacks == ("m", "b")
    assert snapshot.models["m"].deployments[0].mock == Mock(reply="hi", first_token_delay=1.5, status=503)
    assert snapshot.routing.fallback_on == {"content_filter", "context_length"}
    assert (snapshot.routing.backoff_initial, snapshot.routing.backoff_max) == (0.25, 60)
    assert snapshot.server.max_body == 1_572_864
    assert not snapshot.auth_required
    assert snapshot.metrics_public
    assert snapshot.cache.semantic == {
        "backend": "gptcache",
        "url": "http://127.0.0.1:8000",
        "threshold": 0.95,
    }


def test_a_project_replaces_the_general_limits_field_by_field() -> None:
    project = loaded(EVERYTHING, KEY="k").project("web-team")
    assert project.limits == Limits(
        rpm_limit=None,
        tpm_limit=0,
        max_budget=20_500_000_000,
        given=frozenset({"rpm_limit", "tpm_limit", "max_budget"}),
    )
    assert project.own_limits.given == {"rpm_limit", "tpm_limit"}
    assert project.models == ("a", "m*")
    assert project.guardrail == "Be kind."
    assert not project.cache
    assert loaded(EVERYTHING, KEY="k").project("open").guardrail is False
    assert loaded(EVERYTHING, KEY="k").project("unheard-of").limits.rpm_limit == 300


@given(st.fractions(0, 1000).map(lambda f: Fraction(round(f * 10**9), 10**9)))
def test_prices_are_exact_to_the_ninth_decimal(price: Fraction) -> None:
    nanos = int(price * 10**9)
    written = f"{nanos // 10**9}.{nanos % 10**9:09d}"
    found = entry(f"price: {{input: {written}, output: 0}}").models["a"].deployments[0].price
    assert found == Price(input=nanos, output=0)


def test_prices_may_depend_on_length_tier_and_tool() -> None:
    written = (
        "price: {input: 3, output: 15, cached_input: 0.3, cache_write: 3.75, cache_write_1h: 6, "
        "above: {tokens: 200000, input: 6, output: 22.5}, "
        "service_tiers: {priority: {input: 4.5}, flex: {input: 1.5, output: 7.5, cached_input: 0.2}}, "
        "server_tools: {web_search: 10.00}}"
    )
    usd = 10**9
    assert entry(written).models["a"].deployments[0].price == Price(
        3 * usd,
        15 * usd,
        3 * usd // 10,
        375 * usd // 100,
        6 * usd,
        above=((200_000, Tariff(6 * usd, 225 * usd // 10, 6 * usd // 10, 75 * usd // 10, 12 * usd)),),
        service_tiers=(
            ("priority", Tariff(45 * usd // 10, 15 * usd, 45 * usd // 100, 5_625_000_000, 9 * usd)),
            ("flex", Tariff(15 * usd // 10, 75 * usd // 10, 2 * usd // 10, 1_875_000_000, 3 * usd)),
        ),
        server_tools=(("web_search", 10 * usd * 1000),),
    )


def test_cache_writes_cost_more_than_input_at_anthropic() -> None:
    def price(provider: str) -> Price | None:
        text = f"models: [{{name: a, provider: {provider}, api_key: k, price: {{input: 3, output: 15}}}}]"
        return loaded(text).models["a"].deployments[0].price

    usd = 10**9
    assert price("anthropic") == Price(3 * usd, 15 * usd, cache_write=375 * usd // 100)
    assert price("openai") == Price(3 * usd, 15 * usd)


@pytest.mark.parametrize(
    "written",
    [
        "above: {input: 2}",
        "above: {tokens: 0}",
        "service_tiers: {Priority!: {input: 1}}",
        "service_tiers: {priority: {input: -1}}",
        "server_tools: {web_search: free}",
    ],
)
def test_an_invalid_price_is_an_error(written: str) -> None:
    with pytest.raises(ConfigError):
        entry(f"price: {{input: 1, output: 1, {written}}}")


# --- who answers -------------------------------------------------------------------------------------------


def test_without_an_enabled_model_a_mock_is_added_with_a_notice() -> None:
    snapshot = loaded("models: [{name: a, provider: openai, api_key: '${NONE}'}]")
    assert list(snapshot.models) == ["mock"]
    assert 'the built-in model "mock" answers' in snapshot.warnings[-1]


def test_an_added_mock_does_not_take_the_id_of_a_disabled_model_called_mock() -> None:
    snapshot = loaded("models: [{name: mock, provider: openai, api_key: '${NONE}'}]")
    assert [d.id for d in snapshot.models["mock"].deployments] == ["mock#2"]
    assert [d.id for d in snapshot.disabled] == ["mock#1"]


def test_a_mock_with_fallback_false_is_never_the_default_model() -> None:
    snapshot = loaded(
        "models: [{name: m, provider: mock, fallback: false}, {name: a, provider: openai, api_key: k}]"
    )
    assert starting_model(snapshot) == "a"
    assert list(snapshot.models) == ["m", "a"]


def test_an_ordinary_mock_can_be_the_default_model() -> None:
    snapshot = loaded("models: [{name: m, provider: mock}, {name: a, provider: openai, api_key: k}]")
    assert starting_model(snapshot) == "m"


def test_each_mode_has_its_own_default_model() -> None:
    snapshot = loaded(
        "models: [{name: e, provider: openai, api_key: k, mode: embedding}, "
        "{name: a, provider: openai, api_key: k}]"
    )
    assert starting_model(snapshot) == "a"
    assert starting_model(snapshot, "embedding") == "e"
    assert snapshot.models["e"].fallbacks == ()


def test_default_fallbacks_are_the_names_below_the_first_entry_once_each() -> None:
    one = "{name: %s, provider: openai, api_key: k}"
    snapshot = loaded(f"models: [{', '.join(one % name for name in 'abacb')}]")
    assert snapshot.models["a"].fallbacks == ("b", "c")
    assert snapshot.models["b"].fallbacks == ("a", "c")
    assert snapshot.models["c"].fallbacks == ("b",)


def test_disabled_names_are_left_out_of_explicit_fallbacks() -> None:
    snapshot = loaded(
        "models: [{name: a, provider: openai, api_key: k, fallbacks: [b, c]}, "
        "{name: b, provider: openai, api_key: '${NO}'}, {name: c, provider: openai, api_key: k}]"
    )
    assert snapshot.models["a"].fallbacks == ("c",)


def test_an_unavailable_provider_disables_its_entry() -> None:
    snapshot = load(b"models: [{name: a, provider: cohere, api_key: k}]", {}, implemented=frozenset({"mock"}))
    assert snapshot.disabled[0].disabled == "provider cohere is not available in this version"


# --- substitution ------------------------------------------------------------------------------------------


def test_an_unquoted_variable_has_the_type_of_its_value() -> None:
    snapshot = loaded(
        "models: []\nserver:\n  max_parallel_requests: ${N}\n  max_body: ${BODY:-2MB}\n"
        "auth: {required: '${AUTH}'}\nlimits: {key: {max_budget: \"${BUDGET}\"}}",
        N="7",
        AUTH="false",
        BUDGET="0.1",
    )
    assert snapshot.server.max_parallel_requests == 7
    assert snapshot.server.max_body == 2_000_000
    assert not snapshot.auth_required
    assert snapshot.limits["key"].max_budget == 100_000_000


def test_a_numeric_api_key_is_text() -> None:
    snapshot = loaded("models:\n- name: ${NAME}\n  provider: openai\n  api_key: ${KEY}", KEY="1e3", NAME="42")
    assert snapshot.models["42"].deployments[0].api_key == Secret("1e3")


def test_a_quoted_number_among_free_parameters_stays_text() -> None:
    snapshot = entry("params: {user: '${N}', seed: 7}", N="42")
    assert snapshot.models["a"].deployments[0].params == {"user": "42", "seed": 7}


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    snapshot = loaded(f"models: [{{name: a, provider: openai, api_key: '${{file:{tmp_path}/key}}'}}]")
    assert snapshot.models["a"].deployments[0].api_key == Secret("from-file")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_an_unusable_secret_file_disables_the_entry(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    snapshot = loaded(f"models: [{{name: a, provider: openai, api_key: '${{file:{tmp_path}/key}}'}}]")
    assert (snapshot.disabled[0].disabled or "").startswith(f"file {tmp_path}/key ")


def test_an_unset_promptlayer_key_disables_it_silently() -> None:
    snapshot = loaded(SHIPPED + b'tracking: {promptlayer: {api_key: "${PROMPTLAYER_API_KEY}"}}\n', **KEYS)
    assert snapshot.tracking.promptlayer_key is None
    assert snapshot.warnings == ()


def test_the_digest_covers_text_and_substituted_values() -> None:
    text = "models:\n- name: a\n  provider: openai\n  api_key: ${K}"
    one, same, other = loaded(text, K="1"), loaded(text, K="1", UNUSED="x"), loaded(text, K="2")
    assert one.digest == same.digest != other.digest
    assert loaded(text + "\n", K="1").digest != one.digest
    assert re.fullmatch("[0-9a-f]{12}", one.digest)


# --- complaints --------------------------------------------------------------------------------------------

M = "models: []\n"
A_DURATION = "expected a duration such as 250ms, 30s, 5m, 1h or 7d"
A_SIZE = "expected a size such as 10MB, 512KB or 1MiB, or a number of bytes"
A_HEADER = "expected text of printable ASCII; quote it if it looks like a number"
SOME_TEXT = "expected text; quote it if it looks like something else"
TAGS = "text that begins with ! must be in quotes; tags (`!...`) are not allowed"
A_REQUESTS = "stream cannot be set here: each request sets it itself"
A_COLON = yaml_words.SENTENCES[0][1]
A_NAME = "expected a name of letters, digits and . _ : / @ + -"
SUBSTITUTIONS = "write ${NAME}, ${NAME:-default} or ${file:/path}; $${ for a plain ${"

BROKEN = [
    ("", ["1:1: the file is empty; it needs at least `models:`"]),
    ("# only a comment\n", ["1:1: the file is empty; it needs at least `models:`"]),
    ("- a\n", ["1:1: expected a mapping with `models:`"]),
    ("server: {}\n", ["1:1: models: required"]),
    ("models:\n", [f"1:8: models: {A_LIST}"]),
    ("models: {a: 1}\n", [f"1:9: models: {A_LIST}"]),
    ("models: [a]\n", [f"1:10: models[0]: {A_MAPPING}"]),
    ("models: [\n", ["2:1: not YAML: something is missing here: a value, or the closing ] or }"]),
    ("a: b: c\n", [f"1:5: not YAML: {A_COLON}"]),
    (M + "routng: {}\n", ['2:1: routng: unknown key "routng"; did you mean "routing"?']),
    (M + "routing: {retrys: 1}\n", ['2:11: routing.retrys: unknown key "retrys"; did you mean "retries"?']),
    (M + "auth: {zzz: 1}\n", ['2:8: auth.zzz: unknown key "zzz"; known here: required']),
    (M + "limits: {key: {rpm: 1}}\n", ['2:16: limits.key.rpm: unknown key "rpm"; did you mean "rpm_limit"?']),
    (M + "<<: {}\n", ["2:1: <<: unknown key: merge keys are not YAML 1.2; write the keys out"]),
    (M + "auth: {}\nauth: {}\n", ['3:1: duplicate key "auth"; the first is on line 2']),
    (M + "auth: yes\n", [f"2:7: auth: {A_MAPPING}; to let anybody call, write {{required: false}}"]),
    (M + "auth: {required: no}\n", ["2:18: auth.required: expected true or false; write false"]),
    (M + "auth: {required: 1}\n", ["2:18: auth.required: expected true or false"]),
    (M + "auth: {required: 'true'}\n", ["2:18: auth.required: expected true or false, without quotes"]),
    (M + "routing: {retries: true}\n", ["2:20: routing.retries: expected a whole number"]),
    (M + "routing: {retries: 1.5}\n", ["2:20: routing.retries: expected a whole number"]),
    (M + "routing: {retries: 0777}\n", ["2:20: routing.retries: expected a whole number"]),
    (M + "routing: {retries: 1e3}\n", ["2:20: routing.retries: expected a whole number"]),
    (M + "routing: {max_attempts: 0}\n", ["2:25: routing.max_attempts: expected a value from 1 to 20"]),
    (M + "routing: {deadline: 1:30}\n", [f"2:21: routing.deadline: {A_DURATION}"]),
    (M + "routing: {deadline: -1}\n", ["2:21: routing.deadline: expected a duration from 1ms to 1d"]),
    (M + "routing: {deadline: 2d}\n", ["2:21: routing.deadline: expected a duration from 1ms to 1d"]),
    (M + "routing: {deadline: .inf}\n", ["2:21: routing.deadline: expected a number"]),
    (M + "routing: {deadline: 1e99999}\n", ["2:21: routing.deadline: expected a duration from 1ms to 1d"]),
    (
        M + "routing: {fallback_on: [context_lenth]}\n",
        [
            "2:25: routing.fallback_on[0]: expected context_length or content_filter; "
            'did you mean "context_length"?'
        ],
    ),
    (M + "routing: {unknown_model: 3}\n", ["2:26: routing.unknown_model: expected error or default"]),
    (M + "server: {max_body: 10XB}\n", [f"2:20: server.max_body: {A_SIZE}"]),
    (M + "server: {max_body: 12.0005KB}\n", [f"2:20: server.max_body: {A_SIZE}"]),
    (M + "server: {max_body: 1}\n", ["2:20: server.max_body: expected a value from 1024 to 1073741824"]),
    (
        M + "limits: {key: {rpm_limit: -1}}\n",
        ["2:27: limits.key.rpm_limit: expected a value from 0 to 1000000000000"],
    ),
    (
        M + "limits: {key: {max_budget: 1e10}}\n",
        ["2:28: limits.key.max_budget: expected a value from 0 to 1000000000"],
    ),
    (M + "limits: {key: {max_budget: .nan}}\n", ["2:28: limits.key.max_budget: expected a number"]),
    (
        M + "limits: {key: {max_budget: 0.1234567891}}\n",
        ["2:28: limits.key.max_budget: expected at most 9 decimals"],
    ),
    (
        M + "limits: {key: {max_budget: 1, budget_duration: 3w}}\n",
        ["2:48: limits.key.budget_duration: expected hour, day, week, month, or a length such as 12h or 30d"],
    ),
    (
        M + "projects: {web team: {}}\n",
        ["2:22: projects.web team: expected a project name of letters, digits and . _ -"],
    ),
    (
        M + "guardrail: {system_prompt: true}\n",
        ["2:28: guardrail.system_prompt: expected text, or false for none"],
    ),
    (
        M + "tracking: !!python/object/apply:os.system [ls]\n",
        [f"2:11: {TAGS}", f"2:11: tracking: {A_MAPPING}"],
    ),
    (
        M + "cache: {semantic: {backend: gptcache}}\n",
        ["2:19: cache.semantic: url is required for backend gptcache"],
    ),
    (
        M + "cache: {semantic: {backend: embeddings, model: e}}\n",
        ['2:48: cache.semantic.model: there is no model "e"'],
    ),
    (
        ENTRY % ", price: {input: -0.1, output: 1}",
        ["1:65: models[0].price.input: expected a value from 0 to 1000000"],
    ),
    (
        ENTRY % ", price: {input: 1000001, output: 1}",
        ["1:65: models[0].price.input: expected a value from 0 to 1000000"],
    ),
    (ENTRY % ", price: {input: 1}", ["1:57: models[0].price: output is required"]),
    (ENTRY % ", weight: 0", ["1:58: models[0].weight: expected a number above 0 and up to 1000000"]),
    (ENTRY % ", fallbacks: [a]", ["1:62: models[0].fallbacks[0]: a model cannot be its own fallback"]),
    (ENTRY % ", fallbacks: [gtp]", ['1:62: models[0].fallbacks[0]: there is no model "gtp"']),
    (ENTRY % ", fallbacks: b", [f"1:61: models[0].fallbacks: {A_LIST}"]),
    (ENTRY % ", mock: {}", ["1:56: models[0].mock: only for provider mock"]),
    (ENTRY % ", api_version: v1", ["1:63: models[0].api_version: only for provider azure"]),
    (
        ENTRY % ", params: {stream: true}",
        [f"1:67: models[0].params.stream: {A_REQUESTS}"],
    ),
    (ENTRY % ", params: {top_p: .nan}", ["1:58: models[0].params: a number in it is not one of JSON's"]),
    (ENTRY % ", headers: {Host: x}", ["1:59: models[0].headers: header host cannot be set"]),
    (ENTRY % ", headers: {a: 1}", [f"1:59: models[0].headers: header a: {A_HEADER}"]),
    (ENTRY % ', headers: {a: "x\\r\\ny: z"}', [f"1:59: models[0].headers: header a: {A_HEADER}"]),
    ("models: [{name: 4, provider: mock}]", [f"1:17: models[0].name: {SOME_TEXT}"]),
    ("models: [{name: a b, provider: mock}]", [f"1:17: models[0].name: {A_NAME}"]),
    (
        "models: [{name: a, provider: azure, api_key: k}]",
        ["1:10: models[0]: base_url is required for provider azure"],
    ),
    (
        "models: [{name: a, provider: mock}, {name: a, provider: mock, mode: embedding}]",
        ["1:69: models[1].mode: entries that share a name must have the same mode"],
    ),
    (
        "models: [{name: b, provider: mock}, {name: a, provider: mock, fallbacks: []}, "
        "{name: a, provider: mock, fallbacks: [b]}]",
        ["1:116: models[2].fallbacks: entries that share a name must have the same fallbacks"],
    ),
    (M + "server: {drain: ${UNSET}}\n", ['2:18: not YAML: inside { } and [ ], "${...}" must be quoted']),
    (M + "server: {drain: '${UNSET}'}\n", ["2:17: server.drain: UNSET is not set"]),
    (
        M + "server: {drain: '${file:/does/not/exist}'}\n",
        ["2:17: server.drain: file /does/not/exist cannot be read: No such file or directory"],
    ),
    (M + "server: {drain: '${A-B}'}\n", [f"2:17: {SUBSTITUTIONS}"]),
]


@each(("text", "expected"), BROKEN)
def test_an_invalid_file_is_refused_with_its_message(text: str, expected: list[str]) -> None:
    assert errors_of(text) == [f"proxy.yaml:{line}" for line in expected]


def test_an_unknown_provider_error_lists_the_providers() -> None:
    [line] = errors_of("models: [{name: a, provider: opnai}]")
    assert line.startswith("proxy.yaml:1:30: models[0].provider: expected openai, together, anthropic, ")
    assert line.endswith('mock; did you mean "openai"?')


def test_all_problems_are_reported_in_one_run_in_file_order() -> None:
    lines = errors_of("""\
models:
  - name: a
    provider: openai
    api_key: k
    timeouts: {conect: 1}
    fallbacks: [c]
  - provider: openai
  - name: b
    provider: openai
    base_url: http://api.example.com/v1
    fallbacks: [a, 7]
    weight: 1
    weight: 2
server: {drain: '${NO}', max_body: x}
limits: {user: {budget_duration: day}}
""")
    assert [line.removeprefix("proxy.yaml:") for line in lines] == [
        '5:16: models[0].timeouts.conect: unknown key "conect"; did you mean "connect"?',
        '6:17: models[0].fallbacks[0]: there is no model "c"',
        "7:5: models[1].name: required",
        "7:5: warning: models[1] is disabled: OPENAI_API_KEY is not set",
        "10:15: models[2].base_url: http:// would expose the key and the prompts to the network; "
        "use https, or allow_insecure: true",
        f"11:20: models[2].fallbacks[1]: {SOME_TEXT}",
        '13:5: duplicate key "weight"; the first is on line 12',
        "14:17: server.drain: NO is not set",
        f"14:36: server.max_body: {A_SIZE}",
        "15:34: warning: limits.user.budget_duration: without max_budget it does nothing",
    ]


def test_no_error_hides_another() -> None:
    lines = errors_of("""\
models:
  - name: a
    provider: opnai
    base_url: http://api.example.com/v1
    fallbacks: [c]
  - provider: mok
    name: a b
    fallbacks: [d]
    price: {input: x}
  - {name: e, provider: azure, mode: embedding, api_version: v1}
cache: {semantic: {backend: embedings, model: f}}
projects: {p: {models: [zz]}}
""")
    output = [
        re.sub(r": expected openai.*; did", "; did", line).removeprefix("proxy.yaml:") for line in lines
    ]
    assert output == [
        '3:15: models[0].provider; did you mean "openai"?',
        "4:15: models[0].base_url: http:// would expose the key and the prompts to the network; "
        "use https, or allow_insecure: true",
        '5:17: models[0].fallbacks[0]: there is no model "c"',
        '6:15: models[1].provider; did you mean "mock"?',
        f"7:11: models[1].name: {A_NAME}",
        '8:17: models[1].fallbacks[0]: there is no model "d"',
        "9:20: models[1].price.input: expected a number",
        "10:5: models[2]: base_url is required for provider azure",
        "10:5: warning: e is disabled: AZURE_OPENAI_API_KEY is not set",
        '11:29: cache.semantic.backend: expected embeddings or gptcache; did you mean "embeddings"?',
        "12:24: warning: projects.p.models: allows no enabled model, so its keys can use nothing",
        '12:25: warning: projects.p.models[0]: "zz" matches no model',
    ]


@each(
    "text",
    [
        "models: [{name: a, provider: vllm, base_url: 'ftp://x'}]",
        "models: [{name: a, provider: openai, api_key: [1]}]",
        "models: [{name: a, provider: azur, deployment: d, mock: {}}]",
        "models: [{name: a, provider: mock, price: {input: 1, output: x}}]",
        "models: [{name: a, provider: mock, mode: embeddin}, {name: a, provider: mock, mode: embedding}]",
        "models: [{name: a, provider: mock, mode: embeddin, price: {input: 1}}]",
        "models: [{name: a, provider: mock, fallbacks: [b]}, {name: b, provider: mock, mode: embeddin}]",
        "models: [{name: e, provider: mock, mode: embeddin}]\ncache: {semantic: {backend: embeddings, model: e}}",
        "models: []\ncache: {semantic: {backend: embeddings, model: 'a b'}}",
        "models: []\ncache: {semantic: {backend: gptcache, url: 'ftp://x'}}",
        "models: []\nlimits: {key: {max_budget: x, budget_duration: day}}",
        "models: []\nlimits: {project: {max_budget: x}}\nprojects: {p: {limits: {budget_duration: day}}}",
    ],
)
def test_an_error_is_reported_once(text: str) -> None:
    assert len(errors_of(text)) == 1


SECRET = "sk-planted-0123456789"

LEAKS = [
    "models: [{name: a, provider: openai, api_key: '${S} x'}]",
    "models: [{name: a, provider: '${S}'}]",
    "models: [{name: '${S}!', provider: mock}]",
    "models: [{name: a, provider: mock, fallbacks: ['${S}']}]",
    "models: [{name: a, provider: openai, base_url: 'http://u:${S}@h'}]",
    "models: [{name: a, provider: openai, headers: {a: '${S}\t\u00e9'}}]",
    "models: [{name: a, provider: openai, price: {input: '${S}', output: '${S}'}}]",
    "models: ${S}",
    "models: []\nserver: {max_body: '${S}', drain: '${S}', cors_origins: ['${S}']}\nauth: {required: '${S}'}",
    f"models: [{{name: a, provider: openai, api_key: *{SECRET}}}]",
    f"models: [{{name: a, provider: openai, api_key: '{SECRET}}}]",
    f"models: [{{name: a, provider: openai, api_key: {SECRET}: x: y}}]",
    f"models: [{{name: a, provider: openai, api_key: !{SECRET} y}}]",
    f"models:\n  - name: a\n    api_key: {SECRET}\n   bad: 1",
    f"models: [{{name: a, provider: openai, api_key: [{SECRET}], model: {{a: {SECRET}}}}}]",
]


@each("text", LEAKS)
def test_no_error_shows_a_value(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(text, S=SECRET)
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(map(repr, caught.value.problems))


def test_a_model_pattern_from_a_variable_is_not_shown() -> None:
    snapshot = loaded("models: []\nprojects: {p: {models: ['${S}']}}", S=SECRET)
    assert "projects.p.models[0]: matches no model" in snapshot.warnings


@each(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "vllm",
        "gpu.local",
        "x.internal",
    ],
)
def test_http_is_allowed_to_loopback_and_private_networks(host: str) -> None:
    assert entry(f"base_url: 'http://{host}:8000/v1'").models["a"].deployments[0].base_url


@each(
    "host",
    [
        "example.com",
        "8.8.8.8",
        "172.32.0.1",
        "134744072",
        "0x8080808",
        "local.example.com",
        "169.254.169.254",
        "[2001:db8::1]",
    ],
)
def test_http_to_the_internet_needs_allow_insecure(host: str) -> None:
    with pytest.raises(ConfigError, match="http:// would expose"):
        entry(f"base_url: 'http://{host}/v1'")
    assert entry(f"base_url: 'http://{host}/v1', allow_insecure: true").models


@each(
    "url",
    [
        "ftp://x",
        "x",
        "https://",
        "https://u@x",
        "https://x/?k=v",
        "https://x/#f",
        "https://x:99999",
        "https://a b",
        "//x",
    ],
)
def test_an_invalid_url_or_one_with_credentials_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="URL"):
        entry(f"base_url: '{url}', allow_insecure: true")


# --- warnings ----------------------------------------------------------------------------------------------


def test_a_likely_mistake_is_a_warning() -> None:
    snapshot = loaded(
        "models: [{name: a, provider: openai}, "
        "{name: e, provider: openai, api_key: k, mode: embedding, fallbacks: [a]}]\n"
        "projects: {p: {models: ['b*'], limits: {budget_duration: 30d}}}\n"
    )
    output = [warning for warning in snapshot.warnings if LITERAL_KEY not in warning]
    assert output == [
        "guardrail: missing, so requests get no system prompt; write one, or false for none",
        "a is disabled: OPENAI_API_KEY is not set",
        "models[1].fallbacks[0]: its mode is chat, not embedding",
        "projects.p.models: allows no enabled model, so its keys can use nothing",
        'projects.p.models[0]: "b*" matches no model',
        "projects.p.limits.budget_duration: without max_budget it does nothing",
    ]


def test_an_unpriced_model_is_a_warning_if_a_budget_is_configured() -> None:
    models = (
        "models: [{name: a, provider: openai, model: gpt-4.1, api_key: k}, {name: b, provider: openai, api_key: k}, "
        "{name: c, provider: openai, api_key: k, price: {input: 1, output: 1}}, "
        "{name: d, provider: openai, api_key: '${NO}'}]\n"
    )
    price = "has no known price, so requests under a budget skip it or are refused; give it one"
    output = [f"{name} {price}" for name in "bd"]
    assert not set(output) & set(loaded(models).warnings)
    for scope in ("limits: {global: {max_budget: 1}}", "projects: {p: {limits: {max_budget: 1}}}"):
        unpriced = [warning for warning in loaded(models + scope).warnings if "price" in warning]
        assert unpriced == output


def test_the_output_limit_is_only_what_an_entry_says() -> None:
    entry = "{name: a, provider: openai, api_key: k"
    text = f"models:\n  - {entry}}}\n  - {entry}, max_output_tokens: 4096}}\n"
    first, second = loaded(text.encode()).models["a"].deployments
    assert (first.max_output_tokens, first.output_limit) == (4096, None)
    assert (second.max_output_tokens, second.output_limit) == (4096, 4096)
