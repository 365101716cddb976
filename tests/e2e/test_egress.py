"""A server whose upstreams and services can only be reached through a proxy, as in many companies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.forwarding import ForwardProxy, Origin, listening
from tests.support.processes import until
from tests.support.promptlayer.process import PromptLayer, promptlayer
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

PASSWORD = "hunter2-hunter2"
LLM, GPTCACHE, TRACKER = "llm.internal", "gptcache.internal", "promptlayer.internal"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PromptLayer]:
    with promptlayer(tmp_path_factory.mktemp("promptlayer")) as one:
        yield one


@pytest.fixture(scope="module")
def corporate(upstream_process: Upstream, service: PromptLayer) -> Iterator[ForwardProxy]:
    gptcache = Origin()
    proxy = ForwardProxy({LLM: upstream_process.port, GPTCACHE: gptcache.port, TRACKER: service.port})
    with listening(proxy, gptcache):
        yield proxy


@pytest.fixture(scope="module")
def text(upstream_process: Upstream) -> str:
    def behind(name: str, **more: Any) -> dict[str, Any]:
        return upstream_process.model(name, base_url=f"http://{LLM}:18080/v1", **more)

    return config(
        behind("m"),
        behind("vectors", mode="embedding"),
        upstream_process.model("direct", proxy=False),
        egress={"proxy": "${HTTP_PROXY}"},
        cache={"semantic": {"backend": "gptcache", "url": f"http://{GPTCACHE}:9000"}},
        tracking={"promptlayer": {"api_key": "${PROMPTLAYER_API_KEY}"}},
        routing={"retries": 0, "cooldown": {"failures": 1000}},
    )


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory, corporate: ForwardProxy, service: PromptLayer, text: str) -> Proxy:
    env = {
        **service.env,
        "HTTP_PROXY": f"http://corp:{PASSWORD}@localhost:{corporate.port}",
        "PROMPTLAYER_API_URL": f"http://{TRACKER}:80",
    }
    return module_proxy(text, env=env)


def lines(proxy: ForwardProxy, host: str) -> list[str]:
    return [one.line for one in proxy.seen if f"//{host}" in one.line]


@pytest.mark.parametrize("streamed", [False, True])
def test_chats_and_embeddings_use_the_proxy(
    served: Proxy, corporate: ForwardProxy, upstream: Upstream, streamed: bool
) -> None:
    answer = served.chat(model="m", stream=streamed, prompt=f"hello {streamed}")
    assert answer.status_code == 200, answer.text
    vectors = served.client.post(
        "/v1/embeddings", json={"model": "vectors", "input": "x"}, headers=served.auth
    )
    assert vectors.status_code == 200, vectors.text
    asked = lines(corporate, LLM)[-2:]
    assert asked == [
        f"POST http://{LLM}:18080/v1/{path} HTTP/1.1" for path in ("chat/completions", "embeddings")
    ]
    assert all("proxy-authorization" in one.headers for one in corporate.seen)
    assert all("proxy-authorization" not in one["headers"] for one in upstream.journal.requests())


def test_an_entry_may_bypass_the_proxy(served: Proxy, corporate: ForwardProxy) -> None:
    before = len(lines(corporate, LLM))
    assert served.chat(model="direct", prompt="straight").status_code == 200
    assert len(lines(corporate, LLM)) == before
    assert not lines(corporate, "127.0.0.1")


def test_other_services_use_the_proxy(served: Proxy, corporate: ForwardProxy, service: PromptLayer) -> None:
    answer = served.chat(model="m", prompt="to be tracked")
    assert service.record(answer.headers["x-request-id"])["status"] == "SUCCESS"
    assert lines(corporate, TRACKER)
    assert any(line.startswith(f"POST http://{GPTCACHE}:9000/") for line in lines(corporate, GPTCACHE))


def test_a_saved_change_applies_to_the_next_request(served: Proxy, text: str) -> None:
    def status() -> int:
        return served.chat(model="m", prompt="reload", cache={"no-cache": True}).status_code

    assert status() == 200
    served.save(text.replace('"${HTTP_PROXY}"', "false"))
    until(lambda: status() == 502, "the proxy is not used", within=20)
    served.save(text)
    until(lambda: status() == 200, "the proxy is used again", within=20)
    for shown in (served.log(), served.admin("GET", "/health").text):
        assert PASSWORD not in shown
