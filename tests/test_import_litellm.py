"""A LiteLLM configuration becomes one of ours; what has no counterpart is listed, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.__main__ import main
from codellama_proxy.config.litellm import imported
from codellama_proxy.config.litellm_words import PREFIXES
from codellama_proxy.config.load import load
from codellama_proxy.config.schema import Entry
from codellama_proxy.types import Price, Snapshot

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


def test_groups_become_models_with_several_deployments_in_their_order() -> None:
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


def test_prices_are_exact_and_a_word_that_looks_like_a_number_stays_a_word() -> None:
    llama = snapshot().models["llama"].deployments[0]
    assert llama.price == Price(input=270_000_000, output=776_000_000)
    assert llama.params["stop"] == ("1e3",)


def test_whole_prices_are_plain_numbers() -> None:
    costs = "input_cost_per_token: 0.000003, output_cost_per_token: 0.00001"
    entry = f"{{model_name: gpt-4o, litellm_params: {{model: openai/gpt-4o, {costs}}}}}"
    text = imported(f"model_list: [{entry}]".encode(), "config.yaml").text
    assert "output: 10\n" in text
    assert "!!" not in text


def test_models_fall_back_only_where_litellm_was_told_to() -> None:
    found = {name: model.fallbacks for name, model in snapshot().models.items()}
    assert found == {"gpt-4": ("llama",), "llama": ("gpt-4",), "local": (), "vectors": ()}


def test_settings_go_where_they_mean_the_same() -> None:
    found = snapshot()
    assert found.routing.retries == 3
    assert (found.routing.cooldown.time, found.routing.cooldown.failures) == (45.0, 2)
    assert found.routing.fallback_on == {"context_length", "content_filter"}
    assert (found.cache.enabled, found.cache.ttl) == (True, 600.0)
    assert found.limits["global"].max_parallel_requests == 100


def test_what_has_no_counterpart_is_listed_in_file_order() -> None:
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


def test_every_provider_that_has_a_prefix_is_one_of_ours() -> None:
    known = Entry.model_json_schema()["properties"]["provider"]["enum"]
    assert set(PREFIXES.values()) <= set(known)


def lines_of(*entries: str) -> bytes:
    return b"model_list:\n" + "".join(f"  - {entry}\n" for entry in entries).encode()


@pytest.mark.parametrize(
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
def test_an_address_means_the_same_endpoint_as_before(params: str, base_url: str | None) -> None:
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
def test_a_base_model_is_named_without_its_provider(written: str, name: str) -> None:
    params = "{model: azure/mine, api_key: k, api_base: 'https://x.example'}"
    text = imported(
        lines_of(f"{{model_name: m, litellm_params: {params}, model_info: {{base_model: {written}}}}}")
    ).text
    assert load(text.encode(), {}, implemented=IMPLEMENTED).models["m"].deployments[0].base_model == name


def test_an_entry_without_the_key_its_provider_needs_is_listed() -> None:
    found = imported(
        lines_of(
            "{model_name: a, litellm_params: {model: gpt-4o}}",
            "{model_name: b, litellm_params: {model: ollama/llama3}}",
            "{model_name: c, litellm_params: {model: azure/x, api_base: 'https://x.example'}}",
            "{model_name: d, litellm_params: {model: huggingface/tgi, api_base: 'https://x.example'}}",
        )
    )
    why = "has no api_key; LiteLLM takes it from the environment by itself, here write api_key: ${NAME}"
    assert found.lost == (
        f"config.yaml:2:21: model_list[0].litellm_params: {why}",
        f"config.yaml:4:21: model_list[2].litellm_params: {why}",
    )


@pytest.mark.parametrize("config", ["model_list: []", "{}", "model_list: [{model_name: a}]"])
def test_a_configuration_without_a_model_is_nothing_to_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    (tmp_path / "config.yaml").write_text(config)
    assert main(["import", "litellm", str(tmp_path / "config.yaml")]) == 1
    said = capsys.readouterr().err
    assert "to be mended: no model could be carried over, so there is nothing to serve" in said


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
def test_whatever_the_file_has_something_is_made_of_it(file: object) -> None:
    assert imported(json.dumps(file).encode()).text.startswith("# yaml-language-server")


def test_the_command_writes_a_file_once_and_says_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = tmp_path / "proxy.yaml"
    arguments = ["import", "litellm", str(tmp_path / "config.yaml"), "--output", str(made)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("not carried over: ") == 10
    assert "#   " in made.read_text()
    assert main(["check", str(made)]) == 0
    assert main(arguments) == 1
    assert "File exists" in capsys.readouterr().err


def test_a_result_that_needs_mending_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model_list: [{model_name: a b, litellm_params: {model: gpt-4o}}]")
    assert main(["import", "litellm", str(config)]) == 1
    assert "to be mended: proxy.yaml:" in capsys.readouterr().err
