"""Requests of the real server as PromptLayer gets them: whole, once, and at nobody's expense."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.store.postgres.outbox import LEASE_SECONDS
from tests.support.processes import until
from tests.support.promptlayer.process import KEY, PromptLayer, promptlayer
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.stored import kept, query
from tests.support.upstream.process import Upstream

TRACKING = {"promptlayer": {"api_key": "${PROMPTLAYER_API_KEY}"}}


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[PromptLayer]:
    """For what a service that others use must not go through."""
    with promptlayer(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PromptLayer]:
    with promptlayer(tmp_path_factory.mktemp("promptlayer")) as one:
        yield one


@pytest.fixture
def service(shared_service: PromptLayer) -> PromptLayer:
    return shared_service.fresh()


@pytest.fixture(scope="module")
def shared(module_proxy: ProxyFactory, shared_service: PromptLayer, upstream_process: Upstream) -> Proxy:
    model = upstream_process.model
    return tracked(
        module_proxy,
        shared_service,
        model("fast"),
        model("caller", "tools"),
        model("fill", mode="completion"),
        model("vectors", mode="embedding"),
        model("down", "status=500"),
        model("busy", "status=429", fallbacks=["fast"]),
    )


@pytest.fixture
def served(shared: Proxy, service: PromptLayer) -> Proxy:
    """A server that tracks at `service`, and has nothing left to tell it."""
    until(lambda: waiting(shared) == 0, "the outbox is empty", within=20)
    service.fresh()
    return shared


@pytest.fixture(scope="module")
def caching(module_proxy: ProxyFactory, shared_service: PromptLayer, upstream_process: Upstream) -> Proxy:
    return tracked(module_proxy, shared_service, upstream_process.model("fast"), cache={"enabled": True})


def tracked(proxy: ProxyFactory, service: PromptLayer, *models: dict[str, Any], **sections: Any) -> Proxy:
    """A server of its own that tracks at `service`."""
    return proxy(config(*models, **{"tracking": TRACKING, **sections}), env=service.env)


def waiting(one: Proxy) -> int:
    return int(query(one.database, "select count(*) from outbox")[0][0])


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_recorded_completely(served: Proxy, service: PromptLayer, stream: bool) -> None:
    metadata = {
        "team": "blue",
        "level": 7,
        "pl_tags": ["from-body"],
        "prompt_name": "loops",
        "prompt_version": 3,
    }
    answer = served.chat(
        messages=[{"role": "user", "content": "a bash loop"}],
        temperature=0.5,
        stream=stream,
        user="alice",
        metadata={**metadata, "prompt_input_variables": {"n": 3}},
    )
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    record, row = service.record(request_id), served.row(request_id)
    assert record["input"]["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": GUARDRAIL}]},
        {"role": "user", "content": [{"type": "text", "text": "a bash loop"}]},
    ]
    (assistant_message,) = record["output"]["messages"]
    assert assistant_message["role"] == "assistant"
    assert assistant_message["content"][0]["text"]
    assert record["status"] == "SUCCESS"
    assert record["parameters"] == {"temperature": 0.5, "stream": stream}
    assert record["tags"] == ["codellama-proxy", "from-body"]
    assert record["prompt_name"] == "loops"
    assert record["prompt_version_number"] == 3
    assert record["prompt_input_variables"] == {"n": 3}
    assert record["input_tokens"] == row["prompt_tokens"]
    assert record["output_tokens"] == row["completion_tokens"]
    assert record["price"] == pytest.approx(row["cost_usd"])
    expected = {"team": "blue", "level": "7", "project": "default", "user": "alice", "deployment": "fast#1"}
    assert expected.items() <= record["metadata"].items()
    assert not record["metadata"].keys() & {"pl_tags", "prompt_name", "prompt_input_variables"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_streamed_tool_call_is_recorded_assembled(
    served: Proxy, service: PromptLayer, stream: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    answer = served.chat(model="caller", stream=stream, tools=tools)
    record = service.record(answer.headers["x-request-id"])
    assert record["input"]["tools"] == tools
    calls = [call for message in record["output"]["messages"] for call in message["tool_calls"]]
    assert calls
    for call in calls:
        assert call["id"]
        assert isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_a_cached_answer_is_recorded_as_cached(caching: Proxy, service: PromptLayer, stream: bool) -> None:
    prompt = f"same, streamed: {stream}"
    first, again = caching.chat(prompt=prompt), caching.chat(prompt=prompt, stream=stream)
    assert again.headers["x-proxy-cache"] == "hit"
    fresh = service.record(first.headers["x-request-id"])
    kept = service.record(again.headers["x-request-id"])
    assert kept["output"] == fresh["output"]
    assert (kept["price"], kept["metadata"]["cache"], kept["metadata"]["basis"]) == (0, "hit", "cached")
    assert kept["status"] == "SUCCESS"


def test_completions_and_embeddings_are_recorded(served: Proxy, service: PromptLayer) -> None:
    bodies = {"/v1/completions": {"prompt": "def f("}, "/v1/embeddings": {"model": "vectors", "input": "x"}}
    for path, body in bodies.items():
        answer = served.client.post(path, json={"model": "fill", **body}, headers=served.auth)
        assert answer.status_code == 200, answer.text
        record = service.record(answer.headers["x-request-id"])
        assert record["api_type"] == path.removeprefix("/v1/")
        assert record["input"]["content"][-1]["text"].endswith(body.get("prompt") or body["input"])
        assistant_message = [choice["text"] for choice in answer.json().get("choices", ())]
        assert [block["text"] for block in record["output"]["content"]] == assistant_message


def test_headers_may_set_tags_and_template(served: Proxy, service: PromptLayer) -> None:
    headers = {
        **served.auth,
        "x-promptlayer-tags": "a, b",
        "x-promptlayer-prompt-name": "greeting",
        "x-promptlayer-prompt-version": "2",
    }
    answer = served.client.post("/chat/completions", json={"prompt": "hi"}, headers=headers)
    record = service.record(answer.headers["x-request-id"])
    assert record["tags"] == ["codellama-proxy", "a", "b"]
    assert (record["prompt_name"], record["prompt_version_number"]) == ("greeting", 2)


def test_failures_are_errors_and_fallbacks_are_warnings(served: Proxy, service: PromptLayer) -> None:
    failed, rescued = served.chat(model="down"), served.chat(model="busy")
    assert (failed.status_code, rescued.status_code) == (502, 200)
    error = service.record(failed.headers["x-request-id"])
    assert (error["status"], error["error_type"]) == ("ERROR", "PROVIDER_ERROR")
    assert error["output"]["messages"] == []
    warning = service.record(rescued.headers["x-request-id"])
    assert (warning["status"], warning["error_type"]) == ("WARNING", "PROVIDER_RATE_LIMIT")
    assert warning["metadata"]["deployment"] == "fast#1"


def test_without_content_only_counts_are_sent(
    proxy: ProxyFactory, own_service: PromptLayer, upstream: Upstream
) -> None:
    quiet = {"promptlayer": {"api_key": "${PROMPTLAYER_API_KEY}", "content": False}}
    one = tracked(proxy, own_service, upstream.model("fast"), tracking=quiet)
    answer = one.chat(prompt="CANARY-PROMPT", stop=["CANARY-STOP"])
    record = own_service.record(answer.headers["x-request-id"])
    assert record["input_tokens"] > 0
    assert "CANARY" not in own_service.path.read_text()
    assert GUARDRAIL not in own_service.path.read_text()
    assistant_message = answer.json()["choices"][0]["message"]["content"]
    assert assistant_message not in str(record)


def test_no_record_is_lost_in_a_crash_before_delivery(
    proxy: ProxyFactory, own_service: PromptLayer, upstream: Upstream
) -> None:
    own_service.behave(status=503)
    one = tracked(proxy, own_service, upstream.model("fast"))
    ids = [one.chat().headers["x-request-id"] for _ in range(20)]
    until(lambda: one.row(ids[-1]), "the last row is settled")
    one.kill()
    own_service.behave()
    one.start()
    # On a database server, what the killed process was sending belongs to it for a minute.
    within = 10.0 if isinstance(one.database, Path) else LEASE_SECONDS + 20
    for request_id in ids:
        assert own_service.record(request_id, within=within)["status"] == "SUCCESS"
    until(lambda: waiting(one) == 0, "the outbox is empty")


def test_waiting_records_are_delivered_at_shutdown(
    proxy: ProxyFactory, own_service: PromptLayer, upstream: Upstream
) -> None:
    own_service.behave(delay=0.05)
    one = tracked(proxy, own_service, upstream.model("fast"))
    ids = {one.chat().headers["x-request-id"] for _ in range(30)}
    one.stop()
    assert {body["metadata"]["request_id"] for body in own_service.taken()} == ids


@pytest.mark.parametrize(
    "trouble", [{"status": 500}, {"status": 429, "retry_after": 1}, {"status": 401}, {"delay": 30}], ids=str
)
def test_a_failing_service_does_not_affect_requests_and_catches_up(
    served: Proxy, service: PromptLayer, trouble: dict[str, Any]
) -> None:
    service.behave(**trouble)
    started = time.monotonic()
    ids = [served.chat().headers["x-request-id"] for _ in range(10)]
    assert time.monotonic() - started < 20
    until(lambda: service.events("request"), "a try")
    tried = len(service.events("request"))
    assert tried <= 10
    service.behave()
    for request_id in ids:
        service.record(request_id, within=20)


@pytest.mark.one_process("each server logs an outage of the service")
def test_every_record_is_delivered_after_an_outage(
    proxy: ProxyFactory, own_service: PromptLayer, upstream: Upstream
) -> None:
    own_service.stop()
    one = tracked(proxy, own_service, upstream.model("fast"))
    ids = [one.chat().headers["x-request-id"] for _ in range(10)]
    until(lambda: "PromptLayer does not accept records" in one.log(), "a word in the log")
    own_service.start()
    for request_id in ids:
        own_service.record(request_id)
    warnings = [line for line in one.log_lines() if "PromptLayer" in line["message"]]
    assert len(warnings) == 1


@pytest.mark.one_process("each server has metrics of its own")
def test_a_rejected_record_is_dropped_and_counted(served: Proxy, service: PromptLayer) -> None:
    before = dropped(served)
    service.behave(status=422)
    served.chat()
    until(lambda: service.events("request"), "a try")
    until(lambda: dropped(served) == before + 1, "the count")
    until(lambda: waiting(served) == 0, "the outbox is empty")


def dropped(one: Proxy) -> float:
    page = one.admin("GET", "/metrics").text
    return float(re.findall(r"^proxy_tracking_dropped_total (\S+)$", page, re.MULTILINE)[0])


def test_without_a_key_nothing_is_sent_or_stored(
    proxy: ProxyFactory, own_service: PromptLayer, upstream: Upstream
) -> None:
    one = proxy(
        config(upstream.model("fast"), tracking=TRACKING), env={"PROMPTLAYER_API_URL": own_service.url}
    )
    answer = one.chat()
    one.row(answer.headers["x-request-id"])
    until(lambda: waiting(one) == 0, "the outbox is empty")
    scored = one.client.post(
        "/feedback",
        json={"request_id": answer.headers["x-request-id"], "score": 1},
        headers=one.auth,
    )
    assert scored.status_code == 404
    assert not own_service.events("request")


# --- scores ------------------------------------------------------------------------------------------------


def test_a_score_is_sent_after_its_request(served: Proxy, service: PromptLayer) -> None:
    service.behave(status=503)
    request_id = served.chat().headers["x-request-id"]
    body = {"request_id": request_id, "score": 90, "name": "helpful", "metadata": {"by": "bob", "n": 2}}
    answer = served.client.post("/v1/feedback", json=body, headers=served.auth)
    assert answer.status_code == 200
    assert answer.json() == {"request_id": request_id, "score": 90, "status": "accepted"}
    assert not service.events("taken")
    service.behave()
    (score,) = until(lambda: service.taken("/rest/track-score"), "the score", within=20)
    number = service.number(request_id)
    assert score == {"request_id": number, "score": 90, "name": "helpful"}
    (metadata,) = until(lambda: service.taken("/rest/track-metadata"), "the metadata")
    assert metadata == {"request_id": number, "metadata": {"by": "bob", "n": "2"}}


def test_only_the_requests_project_and_the_administrator_may_score_it(
    served: Proxy, service: PromptLayer
) -> None:
    request_id = served.chat().headers["x-request-id"]
    body = {"request_id": request_id, "score": 0}
    other = {"authorization": f"Bearer {served.new_key('ops')['key']}"}
    strange = served.client.post("/feedback", json=body, headers=other)
    unknown = served.client.post("/feedback", json={**body, "request_id": "req_none"}, headers=other)
    assert (strange.status_code, unknown.status_code) == (404, 404)
    assert strange.json()["error"]["code"] == unknown.json()["error"]["code"]
    assert served.client.post("/feedback", json=body).status_code == 401
    assert served.admin("POST", "/feedback", json=body).status_code == 200


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"score": 101}, "invalid_value"),
        ({"score": -1}, "invalid_value"),
        ({"score": True}, "invalid_type"),
        ({"score": "90"}, "invalid_type"),
        ({"score": 1.5}, "invalid_type"),
        ({"score": None}, "missing_required_parameter"),
        ({"request_id": None}, "missing_required_parameter"),
        ({"request_id": 7}, "invalid_type"),
        ({"name": []}, "invalid_type"),
        ({"name": "x" * 300}, "invalid_value"),
        ({"metadata": "x"}, "invalid_type"),
        ({"other": 1}, "unsupported_parameter"),
    ],
    ids=str,
)
def test_an_invalid_score_is_refused(shared: Proxy, change: dict[str, Any], code: str) -> None:
    body = {"request_id": "req_1", "score": 50, **change}
    answer = shared.client.post("/feedback", json=body, headers=shared.auth)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


# --- secrets -----------------------------------------------------------------------------------------------


def test_records_contain_no_secret(
    proxy: ProxyFactory, own_service: PromptLayer, upstream: Upstream, tmp_path: Path
) -> None:
    one = tracked(
        proxy,
        own_service,
        upstream.model("fast", api_key="sk-upstream-secret-CANARY-PROVIDER"),
        upstream.model("locked", "status=401", api_key="sk-upstream-secret-CANARY-LOCKED"),
    )
    answers = [one.chat(stream=stream) for stream in (False, True)]
    answers += [one.chat(model="locked"), one.client.post("/feedback", json={}, headers=one.auth)]
    answers += [one.admin("GET", path) for path in ("/metrics", "/health", "/spend/logs", "/key/list")]
    own_service.record(answers[0].headers["x-request-id"])
    own_service.record(answers[2].headers["x-request-id"])
    one.stop()
    places = {
        "responses": "".join(answer.text + str(answer.headers) for answer in answers),
        "log": one.log(),
        "promptlayer": own_service.path.read_text(),
        **{name: found.decode("latin-1") for name, found in kept(one, "proxy.db*").items()},
    }
    secrets = ("CANARY-PROVIDER", "CANARY-LOCKED", one.key, one.key[5:25], KEY, "admin-key-of-the-tests")
    for place, text in places.items():
        assert not [secret for secret in secrets if secret in text], place
