"""Plain completions in OpenAI's dialect: each provider's address and words, and one form of answer for all."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.load import load
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.openai import completions as text
from codellama_proxy.providers.openai.completions_profiles import COMPLETION_PROFILES
from codellama_proxy.providers.registry import IMPLEMENTED
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import cut, read
from tests.support.conversations import sse

VLLM = deployment("m", provider="vllm")


def ask(prompt: Any = "def f(", *, stream: bool = False, **params: Any) -> InferenceRequest:
    return chat(endpoint="completions", messages=(), stream=stream, params={"prompt": prompt, **params})


def entry(provider: str, model: str = "m-upstream", **more: Any) -> Deployment:
    return deployment(provider=provider, model=model, **{"base_url": None, **more})


def body(provider: str, asked: InferenceRequest, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(text.to_request(asked, entry(provider, **more)).body)
    return found


# --- who, and where ------------------------------------------------------------------------------------------


@each(
    ("provider", "base_url", "url"),
    [
        ("openai", None, "https://api.openai.com/v1/completions"),
        ("together", None, "https://api.together.xyz/v1/completions"),
        ("fireworks", None, "https://api.fireworks.ai/inference/v1/completions"),
        ("mistral", None, "https://api.mistral.ai/v1/fim/completions"),
        ("deepseek", None, "https://api.deepseek.com/beta/completions"),
        ("deepseek", "https://api.deepseek.com/v1/", "https://api.deepseek.com/beta/completions"),
        ("deepseek", "https://api.deepseek.com/beta", "https://api.deepseek.com/beta/completions"),
        ("vllm", "http://10.0.0.9:8000/v1/", "http://10.0.0.9:8000/v1/completions"),
        ("azure", "https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/completions"),
    ],
)
def test_each_provider_has_its_completions_url(provider: str, base_url: str | None, url: str) -> None:
    sent = text.to_request(ask(), entry(provider, base_url=base_url))
    assert sent.url == url
    assert "sk-upstream-secret" in "".join(sent.headers.values())
    assert sent.method == "POST"


@each("provider", COMPLETION_PROFILES)
def test_chat_models_complete_only_with_completions_true(provider: str) -> None:
    entry = f"{{name: a, provider: {provider}, model: codestral, api_key: k, base_url: 'https://h/v1'%s}}"
    plain, reported = (
        load(f"models: [{entry % more}]".encode(), {}, implemented=IMPLEMENTED).models["a"].deployments[0]
        for more in ("", ", completions: true")
    )
    assert (plain.serves("chat"), plain.serves("completion")) == (True, False)
    assert (reported.serves("chat"), reported.serves("completion")) == (True, True)


def test_a_provider_without_completions_cannot_enable_them() -> None:
    text = b"models: [{name: a, provider: anthropic, api_key: k, completions: true}]"
    with pytest.raises(ConfigError, match="provider anthropic has no /completions"):
        load(text, {}, implemented=IMPLEMENTED)


# --- words ---------------------------------------------------------------------------------------------------


def test_a_request_matches_the_expected_json() -> None:
    asked = ask(
        ["a", "b"], stream=True, suffix="z", max_tokens=9, temperature=0, logprobs=2, echo=True, top_k=4
    )
    assert body("openai", asked) == {
        "model": "m-upstream",
        "prompt": ["a", "b"],
        "suffix": "z",
        "max_tokens": 9,
        "temperature": 0,
        "logprobs": 2,
        "echo": True,
        "top_k": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@each("provider", COMPLETION_PROFILES)
def test_usage_is_requested_where_it_is_optional(provider: str) -> None:
    found = body(provider, ask(stream=True), base_url="https://x.example/v1")
    assert found["stream"] is True
    assert ("stream_options" in found) is (provider != "mistral")
    assert "stream_options" not in body(provider, ask(), base_url="https://x.example/v1")


@each("provider", COMPLETION_PROFILES)
def test_completions_use_max_tokens(provider: str) -> None:
    found = body(provider, ask(max_completion_tokens=7), base_url="https://x.example/v1", model="gpt-5")
    assert found["max_tokens"] == 7
    assert "max_completion_tokens" not in found


CODELLAMA = "codellama/CodeLlama-13b-Instruct-hf"


@pytest.mark.parametrize("provider", ["together", "vllm", "fireworks", "llamacpp", "openai_compatible"])
def test_codellama_gets_the_suffix_with_its_fill_in_tokens(provider: str) -> None:
    asked = ask("def f(", suffix="return x")
    found = body(provider, asked, model=CODELLAMA, base_url="https://x.example/v1")
    assert found["prompt"] == "<PRE> def f( <SUF>return x <MID>"
    assert "suffix" not in found
    assert found["stop"] == ["<EOT>"]
    named = body(provider, asked, model="ours", base_model=CODELLAMA, base_url="https://x.example/v1")
    assert named["prompt"] == found["prompt"]


def test_the_clients_stop_sequences_are_kept() -> None:
    assert body("vllm", ask(suffix="z", stop="END"), model=CODELLAMA)["stop"] == ["END", "<EOT>"]
    assert body("vllm", ask(suffix="z", stop=["A", "B"]), model=CODELLAMA)["stop"] == ["A", "B", "<EOT>"]


def test_the_suffix_applies_to_each_prompt() -> None:
    found = body("vllm", ask(["a", "b"], suffix="z"), model=CODELLAMA)
    assert found["prompt"] == ["<PRE> a <SUF>z <MID>", "<PRE> b <SUF>z <MID>"]
    with pytest.raises(ProxyError) as caught:
        body("vllm", ask([1, 2], suffix="z"), model=CODELLAMA)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "suffix")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("ollama", "codellama:7b-code"),  # its templates know what to do
        ("together", "codellama/CodeLlama-70b-Instruct-hf"),  # nobody taught it
        ("together", "deepseek-coder"),
        ("openai", "gpt-3.5-turbo-instruct"),
        ("mistral", "codestral-latest"),
    ],
)
def test_other_models_get_the_suffix_unchanged(provider: str, model: str) -> None:
    found = body(provider, ask("a", suffix="z"), model=model)
    assert (found["prompt"], found["suffix"]) == ("a", "z")
    assert "stop" not in found


def test_without_a_suffix_no_fill_in_tokens_are_sent() -> None:
    assert body("vllm", ask("a"), model=CODELLAMA) == {"model": CODELLAMA, "prompt": "a"}


@pytest.mark.parametrize("provider", [name for name, row in COMPLETION_PROFILES.items() if row.one_text])
def test_providers_of_single_prompts_refuse_lists(provider: str) -> None:
    assert body(provider, ask(["only"]))["prompt"] == "only"
    for several in (["a", "b"], [1, 2], [[1], [2]]):
        with pytest.raises(ProxyError) as caught:
            body(provider, ask(several))
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "prompt")


def test_mistral_requests_are_translated() -> None:
    found = body("mistral", ask(suffix="z", seed=7, user="u", n=1, best_of=1, echo=False))
    assert found == {"model": "m-upstream", "prompt": "def f(", "suffix": "z", "random_seed": 7}
    with pytest.raises(ProxyError, match="'echo'"):
        body("mistral", ask(echo=True))
    sent = text.to_request(ask(echo=True, logit_bias={"5": 1}), entry("mistral", drop_params=True))
    assert sent.dropped == ("echo", "logit_bias")


# --- answers -------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1_795_340_000, "model": "m-2026"}


def choice(answer_text: str, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "text": answer_text, "logprobs": None, "finish_reason": finish}


def answered(found: Any, asked: InferenceRequest | None = None) -> Event:
    return text.parse_response(orjson.dumps(found), asked or ask(), VLLM)


def shown(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(event.body)
    return found


def test_an_openai_answer_is_relayed_byte_for_byte() -> None:
    raw = orjson.dumps({**HEAD, "choices": [choice("x", "stop")], "usage": USAGE, "extra": [1]}) + b" "
    event = text.parse_response(raw, ask(), VLLM)
    assert event.body == raw
    assert (event.text, event.usage, event.finish_reason) == ("x", Usage(5, 3), "stop")
    assert event.model == "m-2026"


def test_together_answers_are_translated() -> None:
    found = {"id": "t-1", "object": "text.completion", "created": 5, "model": "m", "prompt": []}
    event = answered({**found, "choices": [{"text": "x", "finish_reason": "eos"}], "usage": USAGE})
    assert shown(event)["object"] == "text_completion"
    assert shown(event)["choices"] == [{"text": "x", "finish_reason": "stop", "index": 0}]


def test_mistral_chat_answers_become_completions() -> None:
    message = {"role": "assistant", "content": "x", "tool_calls": None}
    made = {"index": 0, "message": message, "finish_reason": "model_length"}
    event = answered({"id": "c", "object": "chat.completion", "created": 5, "model": "m", "choices": [made]})
    assert shown(event)["object"] == "text_completion"
    assert shown(event)["choices"] == [{"index": 0, "finish_reason": "length", "text": "x"}]
    assert event.usage is None


def test_missing_fields_are_filled_in() -> None:
    found = shown(answered({"choices": [{"text": ""}]}))
    assert (found["id"], found["created"], found["object"]) == (
        "cmpl-req_1",
        1_700_000_000,
        "text_completion",
    )


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"error": {"message": "no"}}, "error_in_200"),
        ({"choices": []}, "no_choices"),
        ({"choices": ["x"]}, "no_choices"),
        ({"choices": [{"index": 0}]}, "no_text"),
        ({"choices": [{"index": 0, "text": 5}]}, "no_text"),
        ({"choices": [{"text": "", "finish_reason": "error"}]}, "finish_error"),
        ([], "not_an_object"),
    ],
)
def test_an_invalid_200_is_a_failed_attempt(found: Any, reason: str) -> None:
    with pytest.raises(AttemptError) as caught:
        answered(found)
    assert (caught.value.failure.cls, caught.value.failure.reason) == ("disguised", reason)


# --- streams -------------------------------------------------------------------------------------------------


def piece(answer_text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [choice(answer_text, finish)], **more}


STREAMS = {
    "openai": sse(
        piece("hel"), piece("lo"), piece("", "stop"), {**HEAD, "choices": [], "usage": USAGE}, b"[DONE]"
    ),
    "together": sse(
        {"id": "cmpl-1", "object": "completion.chunk", "created": 1, "usage": None, "choices": [
            {"index": 0, "text": "hel", "delta": {"content": "hel"}, "finish_reason": None}]},
        {"id": "cmpl-1", "object": "completion.chunk", "created": 1, "usage": USAGE, "choices": [
            {"index": 0, "text": "lo", "finish_reason": "eos"}]},
        b"[DONE]",
    ),
    "mistral": sse(
        {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "hel"}, "finish_reason": None}]},
        {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "usage": USAGE,
         "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]},
        b"[DONE]",
    ),
}  # fmt: skip
STREAMED = ask(stream=True)


@pytest.mark.parametrize("kind", STREAMS)
@given(at=st.lists(st.integers(0, 2000), max_size=8))
def test_a_stream_does_not_depend_on_chunk_boundaries(kind: str, at: list[int]) -> None:
    events, complete = read(text, cut(STREAMS[kind], at), STREAMED, VLLM)
    assert complete
    chunks = [orjson.loads(event.body) for event in events if event.body]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    *answer_text, last = chunks
    assert "".join(one["choices"][0]["text"] for one in answer_text) == "hello"
    assert answer_text[-1]["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all("usage" not in one and "delta" not in one["choices"][0] for one in answer_text)
    assert [event.usage_only for event in events if event.body] == [False] * len(answer_text) + [True]
    assert "".join(event.text for event in events) == "hello"
    assert [event.usage for event in events if event.usage] == [Usage(5, 3)]


def test_openai_chunks_are_relayed_byte_for_byte() -> None:
    events, _ = read(text, [STREAMS["openai"]], STREAMED, VLLM)
    assert events[0].body == orjson.dumps(piece("hel"))


def test_a_stream_commits_at_its_first_text() -> None:
    events, _ = read(text, [sse(piece(""), piece("x"), piece("", "stop"), b"[DONE]")], STREAMED, VLLM)
    assert [event.content for event in events] == [False, True, True]


def test_a_stream_without_done_is_complete_if_every_choice_ended() -> None:
    def complete(*answer_text: dict[str, Any]) -> bool:
        return read(text, [sse(*answer_text)], STREAMED, VLLM)[1]

    both = {**HEAD, "choices": [choice("a"), choice("b", index=1)]}
    assert not complete(piece("x"))
    assert complete(piece("x"), piece("", "stop"))
    assert not complete(both, piece("", "stop"))
    assert complete(both, piece("", "stop"), {**HEAD, "choices": [choice("", "stop", 1)]})


def test_an_error_inside_a_stream_is_a_failure() -> None:
    with pytest.raises(AttemptError):
        read(text, [sse(piece("x"), {"error": {"message": "broke"}})], STREAMED, VLLM)


def test_chunks_without_content_are_omitted() -> None:
    raw = sse({}, b"", piece("x"), {**HEAD, "choices": [{}]}, piece("", "stop"), b"[DONE]")
    events, complete = read(text, [raw], STREAMED, VLLM)
    assert complete
    assert "".join(event.text for event in events) == "x"
