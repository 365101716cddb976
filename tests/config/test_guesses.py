"""proxy.yaml as people write it who have never seen it: wrong keys, wrong words, wrong places for secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config import model_schema, schema
from codellama_proxy.config.load import examine
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.section import Section
from codellama_proxy.config.validate import guesses
from codellama_proxy.config.validate.credentials import CUSTOMARY
from codellama_proxy.config.validate.entries import NEEDS_NO_KEY
from codellama_proxy.config.yaml import parser_messages as yaml_words
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.providers.registry import IMPLEMENTED
from tests.support.cases import each


def examined(text: str, **environ: str) -> tuple[Snapshot | None, list[Problem]]:
    try:
        found = examine(text.encode(), environ, implemented=IMPLEMENTED)
    except ConfigError as error:
        return None, _other(error.problems)
    return found.snapshot, _other(found.warnings)


def _other(problems: tuple[Problem, ...]) -> list[Problem]:
    """Without the warning that there is no guardrail: few of these files have one."""
    return [problem for problem in problems if not problem.message.startswith("guardrail: missing")]


def messages_of(text: str, **environ: str) -> list[str]:
    return [problem.message for problem in examined(text, **environ)[1]]


def entry(keys: str, **environ: str) -> tuple[Snapshot | None, list[str]]:
    snapshot, problems = examined(f"models: [{{name: a, provider: openai, {keys}}}]", **environ)
    return snapshot, [problem.message for problem in problems]


# --- keys of providers ---------------------------------------------------------------------------------------

NAMED = [
    "$OPENAI_API_KEY",
    "'$(OPENAI_API_KEY)'",
    "os.environ/OPENAI_API_KEY",
    "'os.environ[\"OPENAI_API_KEY\"]'",
    "env:OPENAI_API_KEY",
    "'env.OPENAI_API_KEY'",
    "process.env.OPENAI_API_KEY",
    "'{{OPENAI_API_KEY}}'",
    "'{env:OPENAI_API_KEY}'",
    "'%OPENAI_API_KEY%'",
    "OPENAI_API_KEY",
]
PLACEHOLDERS = [
    "your-api-key",
    "YOUR_API_KEY",
    "your_openai_key_here",
    "sk-...",
    "sk-your-key",
    "'sk-xxxxxxxxxxxx'",
    "'<key>'",
    "'<your key>'",
    "changeme",
    "change-me",
    "'[your key]'",
    "xxxx",
    "'****'",
    "api-key",
    "insert-your-key-here",
    "replace_me",
]


@each("key", NAMED)
def test_another_tools_variable_syntax_is_an_error_with_the_right_syntax(key: str) -> None:
    snapshot, found = entry(f"api_key: {key}", OPENAI_API_KEY="o")
    assert snapshot is None
    assert found == ["models[0].api_key: this is the name of a variable, not a key; write ${OPENAI_API_KEY}"]


@each("key", PLACEHOLDERS)
def test_a_placeholder_is_an_error_that_names_the_customary_variable(key: str) -> None:
    snapshot, found = entry(f"api_key: {key}")
    assert snapshot is None
    assert len(found) == 1
    assert "write ${" in found[0]
    if not re.search("^[A-Z_]+$| ", key):
        assert "${OPENAI_API_KEY}" in found[0]


@pytest.mark.parametrize("key", ["k", "sk-live-0123456789abcdef", "'0123'", "Zm9vYmFy=="])
def test_a_literal_key_in_the_file_is_a_warning_and_is_not_shown(key: str) -> None:
    snapshot, found = entry(f"api_key: {key}")
    assert snapshot is not None
    [warning] = [one for one in found if "api_key" in one]
    assert "write ${OPENAI_API_KEY}" in warning
    assert key.strip("'") not in warning.replace("key", "").replace("API_KEY", "") or key == "k"


@given(st.from_regex(r"[a-z0-9]{2,8}[$%{_:./-][A-Za-z0-9_-]{8,40}", fullmatch=True))
def test_no_message_about_a_key_repeats_it(key: str) -> None:
    _, found = entry(f"api_key: '{key}'")
    assert key not in " ".join(found)


@each("provider", sorted(NEEDS_NO_KEY - {"mock"}))
@each("word", ["none", "dummy", "EMPTY", "not-needed"])
def test_servers_without_keys_accept_a_placeholder(provider: str, word: str) -> None:
    text = f"models: [{{name: a, provider: {provider}, base_url: 'http://127.0.0.1:9/v1', api_key: {word}}}]"
    assert messages_of(text) == []


def test_promptlayers_key_follows_the_same_rules() -> None:
    models = "models: [{name: a, provider: mock}]\n"
    for key in ("$PROMPTLAYER_API_KEY", "your-api-key"):
        [message] = messages_of(models + f"tracking: {{promptlayer: {{api_key: {key}}}}}")
        assert message.endswith("write ${PROMPTLAYER_API_KEY}") or "${PROMPTLAYER_API_KEY} and" in message


@pytest.mark.parametrize("keys", [
    "headers: {authorization: Bearer $OPENAI_API_KEY}",
    "headers: {X-Key: os.environ/OPENAI_API_KEY}",
    "base_url: 'https://$OPENAI_API_KEY.example/v1'",
])  # fmt: skip
def test_a_variable_within_a_text_is_found(keys: str) -> None:
    snapshot, found = entry(f"{keys}, api_key: '${{K}}'", K="k")
    assert snapshot is None
    assert "a variable is written ${OPENAI_API_KEY} here" in found[0]


@each(("provider", "name"), [(p, name) for p, names in CUSTOMARY.items() for name in names])
def test_an_omitted_key_is_read_from_the_customary_variable(provider: str, name: str) -> None:
    url = ", base_url: https://x.example" if provider == "azure" else ""
    text = f"models: [{{name: a, provider: {provider}{url}}}]"
    snapshot, _ = examined(text, **{name: "the-key-of-the-variable"})
    assert snapshot is not None
    key = snapshot.models["a"].deployments[0].api_key
    assert key is not None
    assert key.reveal() == "the-key-of-the-variable"
    assert key in snapshot.secrets
    assert "the-key-of-the-variable" not in str(snapshot.warnings)
    assert snapshot.digest != examined(text, **{name: "another"})[0].digest  # type: ignore[union-attr]


@each("provider", sorted(CUSTOMARY.keys() - {"azure"}))
def test_without_the_customary_variable_the_entry_is_disabled(provider: str) -> None:
    snapshot, problems = examined(f"models: [{{name: a, provider: {provider}}}]")
    assert snapshot is not None
    assert [d.disabled for d in snapshot.disabled] == [f"{CUSTOMARY[provider][0]} is not set"]
    assert problems[0].message == f"a is disabled: {CUSTOMARY[provider][0]} is not set"


def test_the_first_customary_variable_that_is_set_is_used() -> None:
    snapshot, _ = entry("model: m", OPENAI_API_KEY="", GOOGLE_API_KEY="g")
    assert snapshot is not None
    assert snapshot.disabled
    both = examined("models: [{name: a, provider: gemini}]", GEMINI_API_KEY="first", GOOGLE_API_KEY="second")[
        0
    ]
    assert both is not None
    assert both.models["a"].deployments[0].api_key.reveal() == "first"  # type: ignore[union-attr]


@pytest.mark.parametrize("keys", ["api_key: null", "api_key: ''", "headers: {Authorization: 'Bearer ${T}'}"])
def test_the_customary_variable_is_used_only_if_api_key_is_omitted(keys: str) -> None:
    snapshot, _ = entry(keys, OPENAI_API_KEY="o", T="t")
    assert snapshot is not None
    assert snapshot.models["a"].deployments[0].api_key is None


def test_an_entry_with_a_base_url_needs_no_key() -> None:
    assert entry("base_url: 'http://127.0.0.1:9/v1'")[1] == []


# --- addresses -----------------------------------------------------------------------------------------------


@each("end", ["/chat/completions", "/completions", "/embeddings", "/messages", "/chat/completions/"])
@each("provider", ["openai", "anthropic", "openai_compatible", "vllm"])
def test_a_base_url_with_the_endpoints_path_is_corrected_in_the_error(provider: str, end: str) -> None:
    url = f"https://api.example.com/v1{end}"
    [message] = messages_of(
        f"models: [{{name: a, provider: {provider}, base_url: '{url}', api_key: '${{K}}'}}]", K="k"
    )
    assert message.endswith(": https://api.example.com/v1")
    assert "base_url" in message


def test_an_address_from_a_variable_is_not_shown() -> None:
    [message] = messages_of(
        "models: [{name: a, provider: vllm, base_url: '${U}'}]",
        U="https://tenant.example/v1/chat/completions",
    )
    assert "tenant" not in message
    assert "the proxy itself adds" in message


# --- parameters ----------------------------------------------------------------------------------------------

BAD_PARAMS = [
    ("temperature: hot", "params.temperature: must be a number"),
    ("temperature: 9", "params.temperature: must be between 0 and 2"),
    ("temperature: '0.5'", "params.temperature: must be a number"),
    ("top_p: 1.5", "params.top_p: must be between 0 and 1"),
    ("max_tokens: -1", "params.max_tokens: must be between 1"),
    ("max_tokens: 1.5", "params.max_tokens: must be an integer"),
    ("n: 0", "params.n: must be between 1 and 128"),
    ("stop: 3", "params.stop: must be a string or array"),
    ("stop: [1]", "params.stop: must be a string or array of strings"),
    ("tools: {}", "params.tools: must be an array"),
    ("logit_bias: [1]", "params.logit_bias: must be an object"),
    ("reasoning_effort: 3", "params.reasoning_effort: must be a string"),
    ("stream: true", "params.stream: stream cannot be set here"),
    ("model: x", "params.model: model cannot be set here"),
    ("messages: []", "params.messages: messages cannot be set here"),
    ("api_base: x", "params.api_base: api_base cannot be set here"),
    ("extra_body: {a: 1}", "params.extra_body: extra_body cannot be set here"),
    ("tempreature: 1", 'params.tempreature: unknown parameter; did you mean "temperature"?'),
    ("max_token: 1", 'params.max_token: unknown parameter; did you mean "max_tokens"?'),
    ("max_tokens: 1, max_completion_tokens: 1", "params.max_tokens: give either"),
]


@each(("params", "message"), BAD_PARAMS)
def test_an_invalid_parameter_is_an_error_with_its_position(params: str, message: str) -> None:
    snapshot, found = entry(f"params: {{{params}}}", OPENAI_API_KEY="o")
    assert snapshot is None
    assert len(found) == 1
    assert found[0].startswith(f"models[0].{message}")


def test_every_invalid_parameter_is_reported_and_no_valid_one() -> None:
    _, found = entry("params: {temperature: 9, top_p: 9, seed: 1, top_k: 40, n: x}", OPENAI_API_KEY="o")
    assert [one.split(":")[0].rpartition(".")[2] for one in found] == ["temperature", "top_p", "n"]


def test_a_parameter_of_another_vendor_is_sent_with_a_warning() -> None:
    snapshot, found = entry("params: {frobnicate: 1, chat_template_kwargs: {a: 1}}", OPENAI_API_KEY="o")
    assert snapshot is not None
    assert found == ["models[0].params.frobnicate: unknown parameter; it is sent to the provider unchanged"]


def test_parameters_are_checked_for_the_entrys_mode() -> None:
    for mode, params in [("completion", "logprobs: 5, best_of: 2"), ("embedding", "dimensions: 256")]:
        assert entry(f"mode: {mode}, params: {{{params}}}", OPENAI_API_KEY="o")[1] == []
    assert "must be a boolean" in entry("params: {logprobs: 5}", OPENAI_API_KEY="o")[1][0]


def test_a_parameter_from_a_variable_is_checked_by_its_value() -> None:
    assert entry("params: {temperature: '${T}'}", OPENAI_API_KEY="o", T="hot")[0] is None
    block = "models:\n- name: a\n  provider: mock\n  params:\n    temperature: ${T}\n"
    assert messages_of(block, T="0.5") == []
    assert messages_of(block, T="5") == ["models[0].params.temperature: must be between 0 and 2"]
    assert messages_of(block) == ["models[0].params.temperature: T is not set"]


# --- one run tells everything --------------------------------------------------------------------------------

EVERYTHING_WRONG = """\
models:
  - name: a
    provider: openai
    api_key: ${NO_KEY}
    base_url: ${NO_URL}
    headers: {X-A: "${NO_HEADER}", Host: x}
    params: {temperature: "${NO_NUMBER}", top_p: 7}
    fallbacks: [b]
  - {name: b, provider: openai, model: unheard-of, api_key: "${NO_KEY}", fallbacks: [a]}
limits: {global: {max_budget: "${NO_BUDGET:-5}"}, key: {rpm_limit: "${NO_LIMIT}", tpm_limit: 1}}
server: {drain: "${NO_DRAIN}", max_body: x}
"""


def test_unset_variables_hide_no_error() -> None:
    found = messages_of(EVERYTHING_WRONG)
    for part in (
        "a is disabled: NO_KEY is not set",
        "b is disabled: NO_KEY is not set",
        "base_url: NO_URL is not set",
        "headers.X-A: NO_HEADER is not set",
        "headers: header host cannot be set",
        "params.temperature: NO_NUMBER is not set",
        "params.top_p: must be between 0 and 1",
        "fallbacks form a cycle",
        "b has no known price",
        "rpm_limit: NO_LIMIT is not set",
        "tpm_limit: can never be met",
        "drain: NO_DRAIN is not set",
        "max_body: expected a size",
    ):
        assert any(part in one for one in found), part
    assert len(found) == len(set(found))


def test_errors_are_the_same_with_and_without_keys() -> None:
    text = """\
models:
  - {name: a, provider: openai, model: unheard-of, api_key: "${K}", fallbacks: [b]}
  - {name: b, provider: openai, model: gpt-4.1, api_key: "${K}", fallbacks: [a]}
limits: {global: {max_budget: 5}, key: {max_budget: 0.0000001}}
"""
    without = [one for one in messages_of(text) if "disabled" not in one and "built-in" not in one]
    assert without == messages_of(text, K="k")
    assert len(without) > 1


# --- other names ---------------------------------------------------------------------------------------------

SECTIONS: Mapping[str, type[Section]] = {
    one.__name__: one for one in Section.__subclasses__() if one.__name__ in guesses.KEYS
}


def test_every_suggestion_is_an_existing_key() -> None:
    assert SECTIONS.keys() == guesses.KEYS.keys()
    for name, known in guesses.KEYS.items():
        keys = {field.alias or key for key, field in SECTIONS[name].model_fields.items()}
        assert not keys & known.keys(), "what the section has is no wrong guess"
        for key, message in known.items():
            if word := re.fullmatch(r"write (\w+)", message):
                assert word[1] in keys, (name, key)


def test_every_provider_alias_is_an_existing_provider() -> None:
    names = set(get_args(model_schema.PROVIDERS))
    assert set(guesses.PROVIDERS.values()) <= names
    assert not guesses.PROVIDERS.keys() & names


@pytest.mark.parametrize(("word", "provider"), [("google", "gemini"), ("custom", "openai_compatible"),
    ("claude", "anthropic"), ("OpenAI", "openai"), ("lm-studio", "lmstudio"), ("together_ai", "together")])  # fmt: skip
def test_a_provider_alias_is_answered_with_the_providers_name(word: str, provider: str) -> None:
    [message] = [one for one in messages_of(f"models: [{{name: a, provider: {word}}}]") if "provider" in one]
    assert message.endswith(f'; did you mean "{provider}"?')


@each(("text", "hint"), [
    ("models: [{name: a, provider: mock, api_base: x}]", 'did you mean "base_url"?'),
    ("models: [{name: a, provider: mock, temperature: 1}]", "write params: {temperature: ...}"),
    ("models: [{name: a, provider: mock, max_tokens: 1}]", "params: {max_tokens: ...}"),
    ("models: [{name: a, provider: mock, timeout: 1}]", "timeouts: {answer: ...}"),
    ("models: [{name: a, provider: mock, rpm: 1}]", "under limits:"),
    ("models: [{name: a, provider: mock, api_version: v}]", "only for provider azure"),
    ("models: [{model_name: a, provider: mock}]", "write name"),
    ("models: [{name: a, litellm_params: {model: x}}]", "provider, model, base_url"),
    ("model_list: []", "codellama-proxy import litellm"),
    ("models: []\nlitellm_settings: {}", "codellama-proxy import litellm"),
    ("models: []\nport: 4000", "PROXY_PORT"),
    ("models: []\nmaster_key: x", "PROXY_MASTER_KEY"),
    ("models: []\nguardrail: {prompt: x}", 'did you mean "system_prompt"?'),
    ("models: []\nlimits: {key: {budget: 1}}", "max_budget"),
    ("models: []\nrouting: {num_retries: 1}", 'did you mean "retries"?'),
    ("models: []\ncache: {type: redis}", "leave it out"),
])  # fmt: skip
def test_a_common_wrong_key_is_answered_with_the_right_one(text: str, hint: str) -> None:
    assert any(hint in message for message in messages_of(text)), messages_of(text)


# --- off -----------------------------------------------------------------------------------------------------

MODEL = "models: [{name: a, provider: mock}]\n"


@each("word", ["false", "", "null", "'${OFF}'"])
@each("place", ["cache: %s", "guardrail: %s", "tracking: %s", "tracking: {promptlayer: %s}",
    "tracking: {requests: %s}", "cache: {semantic: %s}", "limits: %s", "limits: {key: %s}", "metrics: %s",
    "projects: %s", "projects: {p: {guardrail: %s}}"])  # fmt: skip
def test_an_optional_section_accepts_false_and_null(place: str, word: str) -> None:
    snapshot, problems = examined(MODEL + place % word, OFF="false")
    assert snapshot is not None, problems
    if place == "cache: %s" and word in ("false", "'${OFF}'"):
        assert not snapshot.cache.enabled
    assert snapshot.guardrail.system_prompt is None


@pytest.mark.parametrize("section", ["routing", "timeouts", "server", "auth"])
def test_a_required_section_refuses_false(section: str) -> None:
    assert examined(MODEL + f"{section}: false")[0] is None


def test_limits_false_for_a_project_disables_the_general_limits() -> None:
    snapshot, _ = examined(MODEL + "limits: {project: {rpm_limit: 1}}\nprojects: {p: {limits: false}}")
    assert snapshot is not None
    assert snapshot.projects["p"].limits.rpm_limit is None


def test_fallbacks_may_be_false() -> None:
    snapshot, _ = examined("models: [{name: a, provider: mock, fallbacks: false}, {name: b, provider: mock}]")
    assert snapshot is not None
    assert snapshot.models["a"].fallbacks == ()


@pytest.mark.parametrize("word", ["off", "no", "disabled"])
def test_other_words_for_off_are_refused_with_a_suggestion(word: str) -> None:
    [message] = messages_of(MODEL + f"cache: {word}")
    assert message.endswith("for none write false")


# --- what is no YAML -----------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["a", "b: ", "- ", "\n", "  ", "{", "}", "[", "]", '"', "'", ":", ",", "@x", "`", "%", "&x ", "*x", "!t ",
     "|\n", ">", "\\q", "? ", "---\n", "...\n", "#", "\t", "0", "é"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=14).map("".join))
def test_invalid_yaml_is_explained(text: str) -> None:
    raw: str | None = None
    try:
        for _ in yaml.parse(text, Loader=yaml.CSafeLoader):
            pass
    except yaml.MarkedYAMLError as error:
        raw = error.problem
    found = messages_of(text)
    assert found or raw is None
    if raw is not None:
        assert raw not in " ".join(found)
        assert yaml_words.plain_message(raw)


def test_each_common_mistake_has_its_message() -> None:
    slips: Mapping[str, str] = {
        "models:\n  - name: a: b\n": "quotes",
        "models:\n  - name: a\n   provider: openai\n": "different column",
        "models: [{name: a\n": "closing",
        "models:\n  - name: @a\n": "quotes",
        "models:\n  - name: 'a\n": "quote is opened",
        "models:\n\t- name: a\n": "tab",
        "models: - a\n": "line of its own",
        'models: ["\\q"]\n': "backslash",
    }
    for text, word in slips.items():
        [message] = messages_of(text)
        assert word in message, message


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(0, 3)
    | st.sampled_from(["a", "openai", "mock", "5m"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "provider", "input", "key", "backend", "model", "a", "url"]), inner
        )
    ),
    max_leaves=6,
)
KEYS_OF_A_FILE = st.sampled_from(
    [f.alias or name for name, f in schema.File.model_fields.items()] + ["x", "<<"]
)


@given(st.dictionaries(KEYS_OF_A_FILE, VALUES, max_size=4), st.dictionaries(
    st.sampled_from([*model_schema.Entry.model_fields, "api_base", "x"]), VALUES, max_size=5))  # fmt: skip
def test_arbitrary_files_are_valid_or_reported(root: dict[str, Any], one: dict[str, Any]) -> None:
    text = yaml.safe_dump({"models": [{"name": "a", "provider": "mock", **one}], **root})
    snapshot, problems = examined(text)
    assert (snapshot is None) == any(problem.severity == "error" for problem in problems)
