"""A LiteLLM configuration becomes one of ours; what has no counterpart is listed, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.__main__ import main
from codellama_proxy.config.importers.litellm import Imported, imported
from codellama_proxy.config.importers.litellm_fields import KEYS as KEYS_OF_PROVIDERS
from codellama_proxy.config.importers.litellm_fields import PARAMS as LITELLM_PARAMS
from codellama_proxy.config.importers.litellm_fields import PREFIXES, RENAMED, SETTINGS
from codellama_proxy.config.importers.litellm_fields import PRICES as PRICE_NAMES
from codellama_proxy.config.load import examine, load
from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.validate.entries import NEEDS_NO_KEY
from codellama_proxy.core.snapshot import Price, Snapshot
from codellama_proxy.providers.registry import IMPLEMENTED as ALL
from tests.support.cases import each

IMPLEMENTED = frozenset(PREFIXES.values())
KEYS = {"AZURE_KEY": "a", "OPENAI_API_KEY": "o", "TOGETHER_API_KEY": "t"}
CONFIG = """\
model_list:
  - model_name: gpt-4
    litellm_params:
      model: azure/my-gpt4
      api_base: https://x.openai.azure.com/
      api_key: os.environ/AZURE_KEY
      api_version: "2024-10-21"
      rpm: 60
    model_info: {base_model: gpt-4o, mode: chat}
  - model_name: gpt-4
    litellm_params: {model: gpt-4o, api_key: os.environ/OPENAI_API_KEY, timeout: 60, temperature: 0.2}
  - model_name: llama
    litellm_params:
      model: together_ai/codellama/CodeLlama-34b-Instruct-hf
      api_key: os.environ/TOGETHER_API_KEY
      input_cost_per_token: 0.00000027
      output_cost_per_token: 7.76e-7
      stop: ["1e3"]
  - model_name: local
    litellm_params: {model: openai/mistral, api_base: http://localhost:8000/v1, api_key: none}
  - model_name: vectors
    litellm_params: {model: text-embedding-3-small, api_key: os.environ/OPENAI_API_KEY}
    model_info: {mode: embedding}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*"}
  - model_name: pal
    litellm_params: {model: vertex_ai/gemini-pro, vertex_project: p}
litellm_settings:
  drop_params: true
  num_retries: 3
  fallbacks: [{gpt-4: [llama, pal]}, {pal: [gpt-4]}]
  content_policy_fallbacks: [{llama: [gpt-4]}]
  cache: true
  cache_params: {type: redis, ttl: 600}
  success_callback: [promptlayer]
router_settings: {routing_strategy: latency-based-routing, cooldown_time: 45, allowed_fails: 2}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY, global_max_parallel_requests: 100}
environment_variables: {A: b}
"""


def snapshot(text: str = CONFIG) -> Snapshot:
    return load(imported(text.encode()).text.encode(), KEYS, implemented=IMPLEMENTED)


def test_model_groups_become_models_with_several_deployments() -> None:
    found = snapshot()
    assert [d.id for m in found.models.values() for d in m.deployments] == [
        "gpt-4#1", "gpt-4#2", "llama#1", "local#1", "vectors#1",
    ]  # fmt: skip
    azure, openai = found.models["gpt-4"].deployments
    assert (azure.provider, azure.model, azure.base_url) == ("azure", "my-gpt4", "https://x.openai.azure.com")
    assert (azure.extra["api_version"], azure.base_model) == ("2024-10-21", "gpt-4o")
    assert azure.api_key is not None
    assert azure.api_key.reveal() == "a"
    assert (openai.provider, openai.timeouts.answer, dict(openai.params)) == (
        "openai",
        60.0,
        {"temperature": 0.2},
    )
    assert found.models["local"].deployments[0].provider == "openai_compatible"
    assert found.models["vectors"].deployments[0].mode == "embedding"
    assert all(d.drop_params for m in found.models.values() for d in m.deployments)


def test_prices_are_exact_and_numeric_text_stays_text() -> None:
    llama = snapshot().models["llama"].deployments[0]
    assert llama.price == Price(input=270_000_000, output=776_000_000)
    assert llama.params["stop"] == ("1e3",)


def test_whole_prices_are_written_as_integers() -> None:
    costs = "input_cost_per_token: 0.000003, output_cost_per_token: 0.00001"
    entry = f"{{model_name: gpt-4o, litellm_params: {{model: openai/gpt-4o, {costs}}}}}"
    text = imported(f"model_list: [{entry}]".encode(), "config.yaml").text
    assert "output: 10\n" in text
    assert "!!" not in text


def test_fallbacks_are_those_of_the_litellm_configuration() -> None:
    found = {name: model.fallbacks for name, model in snapshot().models.items()}
    assert found == {"gpt-4": ("llama",), "llama": ("gpt-4",), "local": (), "vectors": ()}


def test_settings_are_converted_to_their_counterparts() -> None:
    found = snapshot()
    assert found.routing.retries == 3
    assert (found.routing.cooldown.time, found.routing.cooldown.failures) == (45.0, 2)
    assert found.routing.fallback_on == {"context_length", "content_filter"}
    assert (found.cache.enabled, found.cache.ttl) == (True, 600.0)
    assert found.limits["global"].max_parallel_requests == 100


def test_settings_without_counterpart_are_listed_in_file_order() -> None:
    assert list(imported(CONFIG.encode()).lost) == [
        "config.yaml:8:7: model_list[0].litellm_params.rpm: "
        "deployments have no limits of their own here; weight shares the traffic",
        "config.yaml:24:5: model_list[5]: wildcards have no counterpart: write each model down",
        "config.yaml:27:22: model_list[6].litellm_params.model: its provider has no counterpart",
        "config.yaml:31:16: litellm_settings.fallbacks[0].gpt-4: names a model that is not carried over",
        "config.yaml:31:38: litellm_settings.fallbacks[1]: is for a model that is not carried over",
        "config.yaml:32:3: litellm_settings.content_policy_fallbacks: "
        "became fallbacks, which are tried after every failure",
        "config.yaml:34:18: litellm_settings.cache_params.type: "
        "answers are kept in memory and in the database here",
        "config.yaml:36:19: router_settings.routing_strategy: traffic is shared by weight here",
        "config.yaml:37:20: general_settings.master_key: set PROXY_MASTER_KEY in the environment",
        "config.yaml:38:1: environment_variables: has no counterpart",
    ]


def test_every_route_prefix_is_an_existing_provider() -> None:
    known = Entry.model_json_schema()["properties"]["provider"]["enum"]
    assert set(PREFIXES.values()) <= set(known)


def lines_of(*entries: str) -> bytes:
    return b"model_list:\n" + "".join(f"  - {entry}\n" for entry in entries).encode()


@each(
    ("params", "base_url"),
    [
        ("model: ollama/llama3, api_base: 'http://localhost:11434'", "http://localhost:11434/v1"),
        ("model: ollama_chat/llama3, api_base: 'http://gpu:11434/'", "http://gpu:11434/v1"),
        ("model: ollama/llama3, api_base: 'http://gpu:11434/v1'", "http://gpu:11434/v1"),
        ("model: ollama/llama3, api_base: os.environ/OLLAMA", "http://from-environment/v1"),
        ("model: ollama/llama3", None),
        ("model: huggingface/tgi, api_base: 'https://x.example'", "https://x.example/v1"),
        ("model: huggingface/tgi, api_base: 'https://x.example/v1/'", "https://x.example/v1"),
        (
            "model: huggingface/tgi, api_base: 'https://x.example/v1/chat/completions'",
            "https://x.example/v1",
        ),
        ("model: huggingface/https://x.example", "https://x.example/v1"),
        ("model: hosted_vllm/m, api_base: 'http://localhost:8000/v1'", "http://localhost:8000/v1"),
    ],
)
def test_a_converted_address_reaches_the_same_endpoint(params: str, base_url: str | None) -> None:
    text = imported(lines_of(f"{{model_name: m, litellm_params: {{{params}}}}}")).text
    made = load(text.encode(), {"OLLAMA": "http://from-environment"}, implemented=IMPLEMENTED)
    [one] = made.models["m"].deployments
    assert one.base_url == base_url
    assert not one.model.startswith("http")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("azure/gpt-4o", "gpt-4o"),
        ("azure/eu/gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("openai/gpt-4o", "gpt-4o"),
        ("gpt-4o", "gpt-4o"),
        ("codellama/CodeLlama-34b-Instruct-hf", "codellama/CodeLlama-34b-Instruct-hf"),
    ],
)
def test_a_base_model_loses_its_provider_prefix(written: str, name: str) -> None:
    params = "{model: azure/mine, api_key: k, api_base: 'https://x.example'}"
    text = imported(
        lines_of(f"{{model_name: m, litellm_params: {params}, model_info: {{base_model: {written}}}}}")
    ).text
    assert load(text.encode(), {}, implemented=IMPLEMENTED).models["m"].deployments[0].base_model == name


def keys_of(*params: str) -> list[str | None]:
    entries = (f"{{model_name: m{n}, litellm_params: {{{one}}}}}" for n, one in enumerate(params))
    made = yaml.safe_load(imported(lines_of(*entries)).text)
    return [entry.get("api_key") for entry in made["models"]]


def test_an_entry_without_a_key_uses_litellms_variable() -> None:
    assert keys_of(
        "model: gpt-4o",
        "model: ollama/llama3",
        "model: azure/x, api_base: 'https://x.example'",
        "model: together_ai/m, api_key: ''",
        "model: gemini/gemini-2.5-pro",
        "model: openai/local, api_base: 'http://localhost:8000/v1'",
    ) == [
        "${OPENAI_API_KEY}",
        None,
        "${AZURE_API_KEY}",
        "${TOGETHERAI_API_KEY}",
        "${GEMINI_API_KEY}",
        None,
    ]


def test_every_provider_that_needs_a_key_has_a_variable() -> None:
    assert KEYS_OF_PROVIDERS.keys() == set(PREFIXES.values()) - NEEDS_NO_KEY


@pytest.mark.parametrize("config", ["model_list: []", "{}", "model_list: [{model_name: a}]"])
def test_a_configuration_without_a_convertible_model_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    (tmp_path / "config.yaml").write_text(config)
    assert main(["import", "litellm", str(tmp_path / "config.yaml")]) == 1
    output = capsys.readouterr().err
    assert "needs fixing: no model could be converted, so there is nothing to serve" in output


WORDS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["gpt-4", "azure/x", "*", "os.environ/K", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["gpt-4", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model_list": st.lists(
            st.fixed_dictionaries(
                {
                    "model_name": WORDS,
                    "litellm_params": st.fixed_dictionaries({"model": WORDS}, optional={"x": WORDS}),
                }
            )
            | WORDS,
            max_size=3,
        )
        | WORDS,
        "litellm_settings": st.dictionaries(
            st.sampled_from(
                ["fallbacks", "cache", "cache_params", "callbacks", "default_fallbacks", "num_retries"]
            ),
            WORDS,
        )
        | WORDS,
        "general_settings": WORDS,
        "router_settings": WORDS,
    },
)


@settings(max_examples=100)
@given(SECTIONS)
def test_arbitrary_configurations_are_converted_or_refused(file: object) -> None:
    assert imported(json.dumps(file).encode()).text.startswith("# yaml-language-server")


def test_the_command_does_not_overwrite_and_lists_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = tmp_path / "proxy.yaml"
    arguments = ["import", "litellm", str(tmp_path / "config.yaml"), "--output", str(made)]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("not converted: ") == 10
    assert "#   " in made.read_text()
    assert main(["check", str(made)]) == 0
    assert main(arguments) == 1
    assert "File exists" in capsys.readouterr().err


def test_an_incomplete_result_lists_what_needs_fixing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_list: [{model_name: a, litellm_params: {model: hosted_vllm/m, api_base: os.environ/NOT_SET_AT_ALL}}]"
    )
    assert main(["import", "litellm", str(config)]) == 1
    assert "needs fixing: proxy.yaml:" in capsys.readouterr().err


# --- the same meaning, however it is written -------------------------------------------------------------------


def made(config: str) -> dict[str, Any]:
    found = imported(config.encode())
    loaded: dict[str, Any] = yaml.safe_load(found.text)
    errors = problems_of(found.text)
    assert errors == [], found.text
    return loaded


def problems_of(text: str) -> list[str]:
    """What `check` finds, but for variables that are not set here."""
    try:
        examine(text.encode(), {}, implemented=ALL)
    except ConfigError as error:
        return [str(p) for p in error.errors if not p.message.endswith("is not set")]
    return []


def test_merge_keys_add_only_missing_fields() -> None:
    config = """
base: &base {api_key: os.environ/GEMINI_API_KEY, timeout: 5}
other: &other {timeout: 9, weight: 2}
model_list:
  - {model_name: flash, litellm_params: &google {model: gemini/gemini-2.5-flash, <<: *base}}
  - {model_name: pro, litellm_params: {<<: *google, model: gemini/gemini-2.5-pro}}
  - {model_name: both, litellm_params: {<<: [*base, *other], model: gemini/x}}
"""
    flash, pro, both = made(config)["models"]
    assert pro == {**flash, "name": "pro", "model": "gemini-2.5-pro"}
    assert pro["api_key"] == "${GEMINI_API_KEY}"
    assert (both["timeouts"]["answer"], both["weight"]) == (5, 2)
    assert not any("<<" in line for line in imported(config.encode()).lost)


def test_a_merge_key_without_a_mapping_is_listed() -> None:
    found = imported(b"model_list: [{model_name: a, litellm_params: {<<: 3, model: gpt-4o}}]")
    assert found.models == 1
    assert "<<: there is no mapping here to merge" in found.lost[0]


def test_the_last_of_duplicate_keys_is_used() -> None:
    [one] = made("model_list: [{model_name: a, litellm_params: {model: gpt-4, model: gpt-4o}}]")["models"]
    assert one["model"] == "gpt-4o"


@each("no", ["no", "No", "NO", "off", "OFF", "false", "'no'", "'false'"])
@each("yes", ["yes", "on", "On", "true", "'True'"])
def test_yaml_1_1_booleans_are_read_as_by_litellm(no: str, yes: str) -> None:
    config = """
model_list:
  - {model_name: a, litellm_params: {model: gpt-4o, drop_params: %s}}
  - {model_name: b, litellm_params: {model: gpt-4o}}
litellm_settings: {cache: %s, drop_params: %s}
"""
    off = made(config % (no, no, no))
    assert off["cache"] == {"enabled": False}
    assert not any(entry.get("drop_params") for entry in off["models"])
    on = made(config % (no, yes, yes))
    assert on["cache"] == {"enabled": True}
    assert [entry["drop_params"] for entry in on["models"]] == [False, True]


def test_an_invalid_boolean_is_listed() -> None:
    found = imported(b"model_list: []\nlitellm_settings: {cache: maybe, drop_params: [1]}")
    assert [line.rpartition(": ")[2] for line in found.lost] == ["is neither true nor false"] * 2


PRICES = [
    ("8e-7", "2.4e-6", {"input": 0.8, "output": 2.4}),
    ("'8e-7'", "'2.4e-6'", {"input": 0.8, "output": 2.4}),
    ("'0.0000008'", "0.0000024", {"input": 0.8, "output": 2.4}),
    ("0", "'0'", {"input": 0, "output": 0}),
]


@each(("cost_in", "cost_out", "price"), PRICES)
@each("section", ["litellm_params", "model_info"])
def test_a_price_may_be_written_as_text(
    cost_in: str, cost_out: str, price: dict[str, float], section: str
) -> None:
    costs = f"input_cost_per_token: {cost_in}, output_cost_per_token: {cost_out}"
    params = "model: ollama/llama3" + (f", {costs}" if section == "litellm_params" else "")
    info = f", model_info: {{{costs}}}" if section == "model_info" else ""
    [one] = made(f"model_list: [{{model_name: a, litellm_params: {{{params}}}{info}}}]")["models"]
    assert one["price"] == price


@each(
    "costs",
    [
        "input_cost_per_token: cheap, output_cost_per_token: 1e-6",
        "input_cost_per_token: -1, output_cost_per_token: 1e-6",
        "input_cost_per_token: 5, output_cost_per_token: 1e-6",
        "input_cost_per_token: os.environ/X, output_cost_per_token: 1e-6",
        "input_cost_per_token: 1e-6",
        "output_cost_per_token: 1e-6",
        "input_cost_per_second: 1e-6",
        "input_cost_per_token: .inf, output_cost_per_token: .nan",
    ],
)
def test_an_unconvertible_price_is_listed(costs: str) -> None:
    config = f"model_list: [{{model_name: a, litellm_params: {{model: gpt-4o, {costs}}}}}]"
    [one] = made(config)["models"]
    assert "price" not in one
    assert imported(config.encode()).lost


def test_long_prompt_and_cache_prices_are_converted() -> None:
    costs = (
        "input_cost_per_token: 1e-6, output_cost_per_token: 2e-6, input_cost_per_token_above_200k_tokens: 3e-6, "
        "output_cost_per_token_above_200k_tokens: 4e-6, cache_creation_input_token_cost_above_1hr: 5e-6"
    )
    [one] = made(f"model_list: [{{model_name: a, litellm_params: {{model: gpt-4o, {costs}}}}}]")["models"]
    assert one["price"] == {
        "input": 1,
        "output": 2,
        "cache_write_1h": 5,
        "above": {"tokens": 200_000, "input": 3, "output": 4},
    }


@each("mode", ["image_generation", "audio_transcription", "audio_speech", "rerank",
    "moderation", "realtime", "video_generation", "[chat]", "3"])  # fmt: skip
def test_a_model_of_an_unsupported_mode_is_omitted_and_listed(mode: str) -> None:
    config = (
        "model_list: [{model_name: gpt, litellm_params: {model: gpt-4o}}, "
        f"{{model_name: other, litellm_params: {{model: openai/x}}, model_info: {{mode: {mode}}}}}]"
    )
    assert [one["name"] for one in made(config)["models"]] == ["gpt"]
    assert any("the model is left out" in line for line in imported(config.encode()).lost)


@pytest.mark.parametrize("model", ["openai/dall-e-3", "openai/whisper-1", "openai/tts-1", "gpt-image-1",
    "cohere/rerank-english-v3.0", "gpt-4o-transcribe", "openai/omni-moderation-latest"])  # fmt: skip
def test_a_model_with_an_unsupported_mode_in_its_name_is_omitted_and_listed(model: str) -> None:
    assert made(f"model_list: [{{model_name: x, litellm_params: {{model: {model}}}}}]")["models"] == []


@pytest.mark.parametrize(
    "model", ["openai/text-embedding-3-small", "mistral/mistral-embed", "ollama/nomic-embed-text"]
)
def test_an_embedding_model_is_recognised_by_its_name(model: str) -> None:
    [one] = made(f"model_list: [{{model_name: x, litellm_params: {{model: {model}}}}}]")["models"]
    assert one["mode"] == "embedding"


@each(
    ("model", "more", "provider", "upstream"),
    [
        ("openai/responses/gpt-5", "", "openai", "gpt-5"),
        ("azure/responses/gpt-5", "api_base: 'https://x.openai.azure.com'", "azure", "gpt-5"),
        ("azure/o_series/mine", "api_base: 'https://x.openai.azure.com'", "azure", "mine"),
        ("azure_ai/grok-3", "api_base: 'https://x.services.ai.azure.com/models'", "azure", "grok-3"),
        ("azure_ai/llama", "api_base: 'https://x.models.example/v1'", "openai_compatible", "llama"),
        ("azure_ai/claude-sonnet-4-5", "api_base: 'https://x.services.ai.azure.com/anthropic'", "anthropic",
         "claude-sonnet-4-5"),
        ("bedrock/converse/openai.gpt-oss-120b", "", "bedrock", "openai.gpt-oss-120b"),
        ("bedrock/us-east-1/openai.gpt-oss-120b", "", "bedrock", "openai.gpt-oss-120b"),
        ("bedrock/converse/us-gov-west-1/m", "", "bedrock", "m"),
        ("huggingface/together/deepseek-ai/DeepSeek-R1", "", "huggingface", "deepseek-ai/DeepSeek-R1:together"),
        ("openrouter/openai/gpt-4o", "", "openrouter", "openai/gpt-4o"),
        ("litellm_proxy/x", "api_base: 'https://x.example'", "openai_compatible", "x"),
        ("codestral/codestral-latest", "", "mistral", "codestral-latest"),
        ("mistralai/Mixtral", "api_base: 'https://x.example/v1'", "openai_compatible", "mistralai/Mixtral"),
    ],
)  # fmt: skip
def test_route_prefixes_are_removed_from_model_names(
    model: str, more: str, provider: str, upstream: str
) -> None:
    [one] = made(f"model_list: [{{model_name: x, litellm_params: {{model: {model}, {more}}}}}]")["models"]
    assert (one["provider"], one["model"]) == (provider, upstream)


@pytest.mark.parametrize("base", ["''", "' '", "null", "~"])
def test_an_empty_address_is_ignored(base: str) -> None:
    [one] = made(
        f"model_list: [{{model_name: x, litellm_params: {{model: openai/gpt-4o, api_base: {base}}}}}]"
    )["models"]
    assert (one["provider"], "base_url" in one) == ("openai", False)


@pytest.mark.parametrize(
    ("model", "base", "url"),
    [
        ("openai/m", "https://x.example/v1/chat/completions", "https://x.example/v1"),
        ("anthropic/claude-x", "https://x.example/v1/messages", "https://x.example/v1"),
        (
            "azure/mine",
            "https://x.openai.azure.com/openai/deployments/mine/chat/completions?api-version=2024-10-21",
            "https://x.openai.azure.com",
        ),
    ],
)
def test_an_address_with_an_endpoint_path_becomes_a_base_url(model: str, base: str, url: str) -> None:
    [one] = made(f"model_list: [{{model_name: x, litellm_params: {{model: {model}, api_base: '{base}'}}}}]")[
        "models"
    ]
    assert one["base_url"] == url


def test_promptlayer_is_converted_once_and_other_callbacks_are_listed() -> None:
    config = (
        "model_list: []\nlitellm_settings: {success_callback: [promptlayer, langfuse], "
        "failure_callback: [promptlayer, sentry], callbacks: [prometheus, promptlayer]}"
    )
    assert made(config)["tracking"] == {"promptlayer": {"api_key": "${PROMPTLAYER_API_KEY}"}}
    assert [line.split(": ")[1] for line in imported(config.encode()).lost] == [
        "litellm_settings.success_callback[1]",
        "litellm_settings.failure_callback[1]",
    ]


def test_settings_that_fail_check_are_removed_and_listed() -> None:
    config = """
model_list:
  - {model_name: a b, litellm_params: {model: gpt-4o}}
  - {model_name: a, litellm_params: {model: gpt-4o, api_key: your-api-key, temperature: 9, timeout: -1, weight: x}}
  - {model_name: a, litellm_params: {model: text-embedding-3-small}}
  - {model_name: v, litellm_params: {model: hosted_vllm/m}}
  - {model_name: p, litellm_params: {model: gpt-4o, extra_headers: {Host: x}}}
litellm_settings: {num_retries: 99, request_timeout: soon, budget_duration: 3w, fallbacks: [{a: [p]}]}
"""
    found = made(config)
    assert [one["name"] for one in found["models"]] == ["a", "p"]
    assert found["models"][0] == {
        "name": "a", "provider": "openai", "model": "gpt-4o", "fallbacks": ["p"],
    }  # fmt: skip
    lost = imported(config.encode()).lost
    for word in ("api_key", "params.temperature", "timeouts.answer", "weight", "headers", "base_url is required",
                 "routing.retries", "timeouts.answer", "budget_duration", "same mode"):  # fmt: skip
        assert any(word in line for line in lost), word
    assert "your-api-key" not in "".join(lost)


@pytest.mark.parametrize("config", ["3", "[]", "hello", "- a", "model_list: &a [*a]", "a: b: c", "", "\x00"])
def test_a_file_that_is_not_a_configuration_is_reported_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    path = tmp_path / "config: odd.yaml"
    path.write_text(config)
    assert main(["import", "litellm", str(path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1


def test_keys_cannot_break_out_of_the_generated_comments() -> None:
    config = json.dumps({"model_list": [], 'x\nmodels: [{name: a, provider: "': 1, "y\u2028z\ufeff\x07": 2})
    assert made(config)["models"] == []


def test_a_source_file_may_have_colons_in_its_name() -> None:
    assert imported(b"x: 1", "C:\\a:b.yaml").lost == ("C:\\a:b.yaml:1:1: x: has no counterpart",)


NAMES = st.sampled_from(
    [*LITELLM_PARAMS, *RENAMED, *SETTINGS, *PRICE_NAMES, "model", "mode", "base_model", "max_input_tokens", "x",
     "extra_body", "api_version", "custom_llm_provider", "cache", "drop_params", "cache_params", "callbacks",
     "fallbacks", "default_fallbacks", "ttl", "type", "global_max_parallel_requests"]
)  # fmt: skip
SCALARS = st.sampled_from(
    [None, True, False, 0, -1, 3, 10**30, 0.5, 1e-7, 1e300, "", " ", "no", "1e-6", "9" * 70, "gpt-4o", "azure/x",
     "bedrock/converse/us-east-1/m", "openai/responses/x", "huggingface/a/b/c", "azure_ai/claude-x", "os.environ/K",
     "os.environ/", "${K}", "${", "$${K}", "sk-...", "http://x", "https://x.example/v1/chat/completions?a=b", "a\nb",
     "\u2028", "2024-10-21", "0777", "chat", "embedding", "image_generation", "promptlayer", "<<", "30d", "#", ": "]
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "model_name": st.sampled_from(["a", "b", "a b"]),
        "litellm_params": st.dictionaries(NAMES, ANYTHING, max_size=5),
    },
    optional={"model_info": st.dictionaries(NAMES, ANYTHING, max_size=4)},
)
FILES = st.fixed_dictionaries(
    {"model_list": st.lists(ENTRIES, max_size=4) | ANYTHING},
    optional=dict.fromkeys(
        ("litellm_settings", "router_settings", "general_settings"),
        st.dictionaries(NAMES, ANYTHING, max_size=5),
    ),
)


@settings(max_examples=100, deadline=None)
@given(FILES)
def test_every_result_passes_check(file: dict[str, Any]) -> None:
    for name in file["model_list"] if isinstance(file["model_list"], list) else ():
        if isinstance(name, dict) and isinstance(name.get("litellm_params"), dict):
            name["litellm_params"].setdefault("model", "gpt-4o")
    found = imported(json.dumps(file).encode())
    assert problems_of(found.text) == []
    assert len(found.lost) == len(set(found.lost))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_arbitrary_text_is_converted_or_reported_in_one_sentence(text: str) -> None:
    found, errors = attempted(text.encode(errors="replace"))
    assert len(errors) == (1 if found is None else 0)
    assert not any("\n" in str(error) for error in errors)
    assert found is None or problems_of(found.text) == []


def attempted(content: bytes) -> tuple[Imported | None, tuple[Problem, ...]]:
    try:
        return imported(content), ()
    except ConfigError as error:
        return None, error.errors


def test_an_empty_name_is_shown_in_quotes() -> None:
    lost = imported(b'{"": 1, litellm_settings: {"": 1}}', "c.yaml").lost
    assert [line.partition(" ")[2] for line in lost] == [
        '"": has no counterpart',
        'litellm_settings."": has no counterpart',
    ]


def test_aliases_of_model_groups_become_aliases() -> None:
    config = """\
model_list:
  - {model_name: gpt-4, litellm_params: {model: gpt-4o, api_key: os.environ/OPENAI_API_KEY}}
router_settings:
  model_group_alias:
    gpt-3.5-turbo: gpt-4
    secret-name: {model: gpt-4, hidden: true}
    gpt-4: gpt-4
    "claude-*": gpt-4
    other: nothing
"""
    found = imported(config.encode())
    assert dict(snapshot(config).aliases) == {"gpt-3.5-turbo": "gpt-4", "secret-name": "gpt-4"}
    assert [line.rpartition(": ")[2] for line in found.lost] == [
        "aliases are listed by /models",
        "a model has this name, and its own name comes first",
        "is a pattern here; write it under aliases",
        "names a model that is not carried over",
    ]
    broken = config.partition("  model_group_alias")[0] + "  model_group_alias: gpt-4\n"
    assert "is not understood" in imported(broken.encode()).lost[0]
