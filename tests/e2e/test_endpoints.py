"""OpenAI's SDK at /completions and /embeddings: fill-in-the-middle, vectors, streams, and what they cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.openai_client import openai_error, openai_of
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from openai import OpenAI

BOTH = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain"),
            model("codellama", "say=middle", provider="together", completions=True),
            model("codestral", "say=middle", provider="mistral", completions=True),
            model("fim-down", "status=503", mode="completion", fallbacks=["fim"]),
            model("fim", "say=middle", mode="completion"),
            model("fim-cut", "cut=2", mode="completion"),
            model("fim-silent", "no_usage;say=middle", mode="completion"),
            model("embedding", mode="embedding"),
            model("embedding-silent", "no_usage", mode="embedding"),
            model("embedding-down", "status=500", mode="embedding", fallbacks=["embedding"]),
            {"name": "mock-text", "provider": "mock", "mode": "completion", "mock": {"reply": "one two"}},
            {"name": "mock-vectors", "provider": "mock", "mode": "embedding"},
            projects={
                "no-text": {"completions": False},
                "chats": {"endpoints": ["chat", "messages"]},
                "vectors-only": {"endpoints": ["embeddings", "completions"], "completions": False},
            },
        )
    )


@pytest.fixture
def client(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def complete(client: OpenAI, model: str, streamed: bool) -> str:
    made = client.completions.create(
        model=model, prompt="def f(", suffix="return x", max_tokens=9, stream=streamed
    )
    if not streamed:
        assert made.object == "text_completion"
        return made.choices[0].text
    chunks = list(made)
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-1].choices[0].finish_reason == "stop"
    return "".join(chunk.choices[0].text for chunk in chunks)


@BOTH
def test_codellama_fills_in_the_middle_with_its_own_tokens(
    client: OpenAI, upstream: Upstream, streamed: bool
) -> None:
    assert complete(client, "codellama", streamed) == "middle"
    sent = upstream.journal.bodies()[0]
    assert sent["prompt"] == "<PRE> def f( <SUF>return x <MID>"
    assert "suffix" not in sent
    assert GUARDRAIL not in str(sent)
    assert upstream.journal.requests()[0]["path"].endswith("/v1/completions")


@BOTH
def test_mistral_fills_in_at_its_fim_endpoint(client: OpenAI, upstream: Upstream, streamed: bool) -> None:
    assert complete(client, "codestral", streamed) == "middle"
    sent = upstream.journal.bodies()[0]
    assert (sent["prompt"], sent["suffix"]) == ("def f(", "return x")
    assert upstream.journal.requests()[0]["path"].endswith("/v1/fim/completions")


@BOTH
def test_a_completion_falls_back_and_is_booked_once(
    served: Proxy, client: OpenAI, upstream: Upstream, streamed: bool
) -> None:
    raw = client.completions.with_raw_response.create(
        model="fim-down", prompt="x", stream=streamed, extra_body={"max_tokens": 9}
    )
    assert raw.headers["x-proxy-model"] == "fim"
    parsed = raw.parse()
    text = "".join(c.choices[0].text for c in parsed) if streamed else parsed.choices[0].text
    assert text == "middle"
    row = served.row(raw.headers["x-request-id"])
    assert (row["endpoint"], row["model"], row["basis"], row["stream"]) == (
        "completions",
        "fim",
        "exact",
        streamed,
    )
    usage = upstream.journal.usages()[-1]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert row["cost_usd"] > 0


def test_a_completion_stream_has_usage_on_request(client: OpenAI, upstream: Upstream) -> None:
    *_, last = client.completions.create(
        model="fim", prompt="x", stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.to_dict() == upstream.journal.usages()[0]


def test_a_completion_without_usage_is_estimated(served: Proxy, client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="fim-silent", prompt="one two three")
    usage = raw.parse().usage
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert served.row(raw.headers["x-request-id"])["basis"] == "estimated"


def test_a_cut_completion_raises_after_the_received_text(client: OpenAI) -> None:
    stream = client.completions.create(model="fim-cut", prompt="x", stream=True)
    pieces: list[str] = []
    with pytest.raises(openai_error("APIError")):
        pieces.extend(chunk.choices[0].text for chunk in stream)
    assert "".join(pieces) == "fim-cut-0 fim-cut-1 "


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize(("path", "name"), [("/completions", "plain"), ("/embeddings", "codellama")])
def test_a_model_of_another_mode_is_not_found(
    served: Proxy, upstream: Upstream, prefix: str, path: str, name: str
) -> None:
    body = {"model": name, "prompt": "x", "input": "x"}
    answer = served.client.post(prefix + path, json=body, headers=served.auth)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert upstream.journal.requests() == []


@pytest.mark.parametrize(
    ("project", "allowed"),
    [
        ("no-text", {"chat/completions", "embeddings"}),
        ("chats", {"chat/completions"}),
        ("vectors-only", {"embeddings"}),
    ],
)
def test_a_project_may_call_only_its_endpoints(
    served: Proxy, upstream: Upstream, project: str, allowed: set[str]
) -> None:
    auth = {"authorization": f"Bearer {served.new_key(project)['key']}"}
    names = {"chat/completions": "plain", "completions": "codellama", "embeddings": "embedding"}
    for path, name in names.items():
        for model in (name, None):
            body = {"model": model, "prompt": "x", "input": "x"}
            answer = served.client.post(f"/v1/{path}", json=body, headers=auth)
            assert (answer.status_code == 200) == (path in allowed), answer.text
            if path not in allowed and model:
                unknown = served.client.post(f"/v1/{path}", json={**body, "model": "nix"}, headers=auth)
                assert answer.text.replace(name, "nix") == unknown.text, (
                    "it looks like a model that is not there"
                )
    assert len(upstream.journal.requests()) == 2 * len(allowed)


def test_the_sdks_default_is_base64_and_costs_are_booked(
    served: Proxy, client: OpenAI, upstream: Upstream
) -> None:
    raw = client.embeddings.with_raw_response.create(model="embedding-down", input=["one", "three"])
    assert [one.embedding[:2] for one in raw.parse().data] == [[0.0, 3.0], [1.0, 5.0]]
    assert upstream.journal.bodies()[-1]["encoding_format"] == "base64"
    row = served.row(raw.headers["x-request-id"])
    assert (row["endpoint"], row["model"], row["basis"]) == ("embeddings", "embedding", "exact")
    assert row["prompt_tokens"] == upstream.journal.usages()[-1]["prompt_tokens"] > 0
    assert row["cost_usd"] > 0
    assert float(raw.headers["x-proxy-cost-usd"]) == row["cost_usd"]


def test_embeddings_without_usage_are_estimated(served: Proxy, client: OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model="embedding-silent", input="one two three")
    assert raw.parse().usage.prompt_tokens > 0
    assert served.row(raw.headers["x-request-id"])["basis"] == "estimated"


@BOTH
def test_the_mock_completes(client: OpenAI, streamed: bool) -> None:
    made = client.completions.create(model="mock-text", prompt=["x", "y"], stream=streamed)
    texts = ["", ""]
    for answer in made if streamed else [made]:
        for choice in answer.choices:
            texts[choice.index] += choice.text
    assert texts == ["one two", "one two"]


def test_the_mock_embeds_deterministically(client: OpenAI) -> None:
    first, again, other = (
        client.embeddings.create(model="mock-vectors", input=text, dimensions=16).data[0].embedding
        for text in ("one", "one", "other")
    )
    assert first == again != other
    assert len(first) == 16
    assert math.isclose(math.hypot(*first), 1.0, rel_tol=1e-5)


CHANGING = ("x-request-id", "x-proxy-overhead-ms", "date", "x-ratelimit-", "vary", "access-control-")
"""Headers that differ between two equal requests, or only a browser gets."""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"model": "plain", "prompt": "hi"}, id="plain"),
        pytest.param({"model": "plain", "prompt": "hi", "stream": True}, id="stream"),
        pytest.param({"model": "unknown", "prompt": "hi"}, id="refused"),
        pytest.param({"model": "fim-down", "prompt": "hi", "stream": "yes"}, id="invalid"),
    ],
)
def test_requests_answer_the_same_through_middleware(served: Proxy, body: dict[str, object]) -> None:
    """A browser's requests pass the middleware, others are answered by direct calls."""

    def answered(**headers: str) -> tuple[int, dict[str, str], str]:
        answer = served.client.post("/v1/chat/completions", json=body, headers={**served.auth, **headers})
        kept = {name: value for name, value in answer.headers.items() if not name.startswith(CHANGING)}
        return answer.status_code, kept, re.sub(r'"(id|created)":\s*("[^"]*"|\d+)', "", answer.text)

    assert answered() == answered(origin="http://127.0.0.1")
