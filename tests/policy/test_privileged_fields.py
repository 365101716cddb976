"""What could take the guardrail's place is refused or dropped, at every provider, and the entry may still say it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Secret
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.request import parse_chat
from codellama_proxy.policy.guardrail import request_for
from codellama_proxy.policy.privileged_fields import privileged, refused_from
from codellama_proxy.providers.registry import ADAPTERS, ADAPTERS_BY_ENDPOINT
from tests.support.cases import each

GUARDRAIL = "Only speak of code."
PRIVILEGED = (
    *("chat_template", "chat_template_kwargs", "prompt_template", "template", "add_generation_prompt"),
    *("continue_final_message", "add_special_tokens", "documents", "data_sources", "dataSources", "system"),
    *(
        "system_prompt",
        "systemInstruction",
        "instructions",
        "preamble",
        "pre_prompt",
        "tool_prompt",
        "prompt_id",
    ),
    *(
        "raw_prompting",
        "raw",
        "nvext",
        "truncate_prompt_tokens",
        "prompt_truncate_len",
        "truncation",
        "transforms",
    ),
    *("context_length_exceeded_behavior", "context", "n_keep", "num_ctx", "options", "connectors", "plugins"),
    *(
        "cached_content",
        "google",
        "provider",
        "input_ids",
        "prompt_token_ids",
        "prompt_embeds",
        "input_embeds",
    ),
    *(
        "logits_processors",
        "custom_logit_processor",
        "lora",
        "id_slot",
        "conversation_id",
        "previous_response_id",
    ),
    *("guardrail", "guardrailConfig", "disable_global_guardrails", "amazon-bedrock-guardrailConfig"),
)
HARMLESS = (
    *(
        "top_k",
        "min_p",
        "repetition_penalty",
        "guided_json",
        "enable_thinking",
        "ignore_eos",
        "prompt_logprobs",
    ),
    *(
        "thinking",
        "reasoning",
        "cache_prompt",
        "search_parameters",
        "include_reasoning",
        "best_of",
        "grammar",
    ),
    *("session_id", "safety_settings", "min_tokens", "length_penalty", "use_beam_search", "mirostat"),
)


def entry(provider: str, **more: Any) -> Deployment:
    url = "https://host.example/v1"
    return replace(Deployment("m#1", "m", provider, "owner/m", base_url=url, api_key=Secret("k" * 9)), **more)


def sent(fields: dict[str, Any], deployment: Deployment) -> HttpRequest:
    chat = parse_chat(orjson.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}))
    refused_from(chat, deployment)
    here = request_for(chat, deployment, GUARDRAIL, "keep", None)
    return ADAPTERS_BY_ENDPOINT["chat/completions"][deployment.provider].to_request(here, deployment)


@each("provider", ADAPTERS)
@each("name", PRIVILEGED)
def test_clients_may_not_set_privileged_fields(provider: str, name: str) -> None:
    for value in ("canary", {"canary": True}, ["canary"], True):
        with pytest.raises(ProxyError) as refused:
            sent({name: value}, entry(provider))
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    lenient = entry(provider, drop_params=True)
    assert sent({name: "canary"}, lenient).body == sent({}, lenient).body
    chat = parse_chat(orjson.dumps({"prompt": "hi", name: "canary"}))
    assert refused_from(chat, lenient) == (name,)


@pytest.mark.parametrize("provider", ["openai", "vllm", "ollama", "together", "openai_compatible"])
def test_an_entry_may_set_privileged_fields(provider: str) -> None:
    own = entry(provider, params={"chat_template_kwargs": {"enable_thinking": False}})
    assert b'"chat_template_kwargs":{"enable_thinking":false}' in sent({}, own).body
    lenient = replace(own, drop_params=True)
    assert b'"enable_thinking":false' in sent({"chat_template_kwargs": {"x": 1}}, lenient).body


@each("name", HARMLESS)
def test_other_fields_are_passed_on(name: str) -> None:
    assert privileged([name]) == ()


def test_no_openai_field_is_privileged() -> None:
    assert privileged(CHAT_PARAMETERS) == ()


@given(st.sampled_from(PRIVILEGED), st.data())
def test_field_names_are_compared_without_case(name: str, data: st.DataObject) -> None:
    other = "".join(data.draw(st.sampled_from([char, char.upper(), char.lower()])) for char in name)
    assert privileged([other]) == (other,)


@each("provider", ADAPTERS)
def test_the_guardrail_is_identical_in_every_request(provider: str) -> None:
    bodies = [
        sent({"messages": [{"role": "user", "content": text}], "temperature": 0.5}, entry(provider)).body
        for text in ("one", "two", "three")
    ]
    before = {re.split(rb"one|two|three", body)[0].partition(GUARDRAIL.encode())[0] for body in bodies}
    assert all(body.count(GUARDRAIL.encode()) == 1 for body in bodies)
    assert len(before) == 1
