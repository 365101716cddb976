"""What happens when upstreams fail before the first token: who is asked next, and what the caller is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import free_port
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

# script -> class of failure; each comes true with and without a stream.
FAULTS = {
    "status=500": "transient",
    "status=502": "transient",
    "status=504": "transient",
    "status=408": "transient",
    "status=503": "transient",
    "status=503;retry_after=30": "busy",
    "status=529": "busy",
    "status=429;retry_after=3600": "busy",
    "status=429;retry_after=-5": "busy",
    "status=429;retry_after=abc": "busy",
    "status=429;retry_after=Fri, 01 Jan 2038 00:00:00 GMT": "busy",
    "status=401": "credential",
    "status=402": "credential",
    "status=403": "credential",
    "status=404": "credential",
    "status=429;code=insufficient_quota": "credential",
    "hang": "transient",
    "drop": "transient",
    "reset": "transient",
    "html": "disguised",
    "empty": "disguised",
    "error_200": "disguised",
    "gzip_bomb": "disguised",
    "redirect=http://127.0.0.1:1/": "disguised",
    "huge_header": None,
    "endless": None,
}
STREAM_FAULTS = {
    "empty_stream": "disguised",
    "error_event_first": "disguised",
    "role_then_fail": "disguised",
    "cut_clean=0": "disguised",
    "cut=0": None,
    "stall=0": "transient",
    "comments_only": "transient",
}
WHOLE_FAULTS = {"truncated": "disguised", "no_choices": "disguised", "cut": None, "stall": "transient"}
CASES = [
    *((script, cls, streamed) for script, cls in FAULTS.items() for streamed in (False, True)),
    *((script, cls, True) for script, cls in STREAM_FAULTS.items()),
    *((script, cls, False) for script, cls in WHOLE_FAULTS.items()),
]
SILENT = ("hang", "stall", "comments_only", "endless")
"""Faults that only a timeout ends. To the others a busy machine must not look like one."""
QUICK = {"connect": "1s", "first_token": "250ms", "idle": "250ms", "answer": "400ms"}


def label(script: str, streamed: bool) -> str:
    return f"bad-{[(s, t) for s, _, t in CASES].index((script, streamed))}"


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    closed = f"http://127.0.0.1:{free_port()}/v1"
    return module_proxy(
        config(
            *(
                model(
                    label(script, streamed),
                    script,
                    fallbacks=["good"],
                    **({"timeouts": QUICK} if script.startswith(SILENT) else {}),
                )
                for script, _, streamed in CASES
            ),
            model("unreachable", base_url=closed, fallbacks=["good"]),
            model("good"),
            model("once", "status=500|ok"),
            model("once-stream", "status=500|ok"),
            model("never", "status=500"),
            model("patient", "status=429;retry_after_ms=20|ok"),
            model("impatient", "status=429;retry_after=3600|ok"),
            model("rejecting", "status=400;message=Not like this.", fallbacks=["good"]),
            model("long", "status=400;code=context_length_exceeded", fallbacks=["good"]),
            model("first", "status=500", fallbacks=["second", "third", "good"]),
            model("second", "status=429", fallbacks=[]),
            model("third", "status=401", fallbacks=[]),
            model("lost", "status=500", fallbacks=["lost-2", "lost-3"]),
            model("lost-2", "status=500", fallbacks=[]),
            model("lost-3", "html", fallbacks=[]),
            model("twin", "status=500"),
            model("twin", "ok"),
            model("flapping", "status=500", fallbacks=["good"]),
            model("fickle", "then_close=0"),
            model("hostile", "endless", timeouts={"answer": "2s"}),
            routing={"max_attempts": 6},
            projects={"narrow": {"models": ["first", "third", "good"]}},
        )
    )


def answer_text(body: str) -> str:
    """The text of an answer, whole or streamed."""
    if not body.startswith("data:"):
        content: str = json.loads(body)["choices"][0]["message"]["content"]
        return content
    chunks = [json.loads(line[6:]) for line in body.split("\n\n") if line and line != "data: [DONE]"]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


GOOD = " ".join(f"good-{i}" for i in range(8))


@pytest.mark.parametrize(("script", "cls", "streamed"), CASES)
def test_a_failure_before_the_first_token_is_served_by_the_next_model(
    served: Proxy, upstream: Upstream, script: str, cls: str | None, streamed: bool
) -> None:
    """After one more try of the same one, where the failure may pass."""
    name = label(script, streamed)
    tries = 1 if cls in ("busy", "credential") else 2
    answer = served.chat(model=name, stream=streamed)
    assert answer.status_code == 200, answer.text
    assert answer_text(answer.text) == GOOD, "not one byte of the failed deployment may show"
    assert answer.headers["x-proxy-model"] == "good"
    assert answer.headers["x-proxy-deployment"] == "good#1"
    assert answer.headers["x-proxy-attempts"] == str(tries + 1)
    assert upstream.journal.models() == [name] * tries + ["good"]
    row = served.row(answer.headers["x-request-id"])
    assert [attempt["deployment"] for attempt in row["attempts"]] == [f"{name}#1"] * tries + ["good#1"]
    *failed, last = [attempt["class"] for attempt in row["attempts"]]
    assert last == "ok"
    assert set(failed) <= ({cls} if cls else {"transient", "disguised"})
    assert (row["model_requested"], row["model"], row["status"]) == (name, "good", "ok")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_unreachable_upstream_is_skipped(served: Proxy, streamed: bool) -> None:
    answer = served.chat(model="unreachable", stream=streamed)
    assert answer_text(answer.text) == GOOD
    assert answer.elapsed.total_seconds() < 20


def test_a_closed_idle_connection_is_replaced(served: Proxy, upstream: Upstream) -> None:
    """A request that was written just before the end is an attempt of its own; none is sent behind our count."""
    attempts = 0
    for round_ in range(40):
        answer = served.chat(model="fickle", stream=round_ % 2 == 0)
        assert answer.headers["x-proxy-attempts"] in ("1", "2")
        attempts += int(answer.headers["x-proxy-attempts"])
        assert answer_text(answer.text).startswith("fickle-0 ")
    assert 40 <= len(upstream.journal.requests()) <= attempts < 60, "nearly always the end is noticed in time"


def test_an_endless_answer_does_not_exhaust_memory(served: Proxy) -> None:
    before = memory(served)
    for streamed in (False, True):
        assert served.chat(model="hostile", stream=streamed).status_code in (502, 504)
    assert memory(served) - before < 64 << 20


def memory(served: Proxy) -> int:
    """Bytes of the server's resident memory."""
    status = Path(f"/proc/{served.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


@pytest.mark.parametrize("name", ["once", "once-stream"])
def test_a_single_deployment_is_retried(served: Proxy, upstream: Upstream, name: str) -> None:
    answer = served.chat(model=name, stream=name == "once-stream")
    assert answer_text(answer.text).startswith(f"{name}-0 ")
    assert answer.headers["x-proxy-attempts"] == "2"
    assert upstream.journal.models() == [name, name]


def test_retries_are_bounded(served: Proxy, upstream: Upstream) -> None:
    answer = served.chat(model="never")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    assert upstream.journal.models() == ["never"] * 2


def test_a_short_retry_after_is_waited_for_when_nothing_else_is_ready(
    served: Proxy, upstream: Upstream
) -> None:
    assert served.chat(model="patient").status_code == 200
    assert upstream.journal.models() == ["patient"] * 2


def test_a_long_retry_after_is_not_waited_for(served: Proxy, upstream: Upstream) -> None:
    answer = served.chat(model="impatient")
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "upstream_rate_limited"
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert upstream.journal.models() == ["impatient"]


def test_a_client_error_is_not_retried(served: Proxy, upstream: Upstream) -> None:
    for _ in range(5):
        answer = served.chat(model="rejecting")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "upstream_rejected"
        assert "Not like this." in answer.json()["error"]["message"]
    assert upstream.journal.models() == ["rejecting"] * 5, "and it is not cooled for it"


def test_a_context_length_error_falls_back(served: Proxy) -> None:
    assert answer_text(served.chat(model="long").text) == GOOD


def test_fallbacks_are_tried_in_their_order(served: Proxy, upstream: Upstream) -> None:
    answer = served.chat(model="first")
    assert upstream.journal.models() == ["first", "first", "second", "third", "good"]
    assert answer.headers["x-proxy-attempts"] == "5"
    row = served.row(answer.headers["x-request-id"])
    assert [attempt["class"] for attempt in row["attempts"]] == ["transient"] * 2 + [
        "busy",
        "credential",
        "ok",
    ]


def test_the_chain_skips_models_the_key_may_not_use(served: Proxy, upstream: Upstream) -> None:
    narrow = served.new_key("narrow")["key"]
    headers = {"authorization": f"Bearer {narrow}"}
    body = {"model": "first", "messages": [{"role": "user", "content": "hi"}]}
    answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert "second" not in upstream.journal.models()
    assert upstream.journal.models()[-1] == "good"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_exhausted_chain_lists_its_attempts(served: Proxy, upstream: Upstream, streamed: bool) -> None:
    answer = served.chat(model="lost", stream=streamed)
    error = answer.json()["error"]
    assert answer.status_code == 502
    assert len(error["attempts"]) == len(upstream.journal.requests()) >= 3
    assert {attempt["deployment"] for attempt in error["attempts"]} == {"lost#1", "lost-2#1", "lost-3#1"}
    assert all(attempt.keys() >= {"deployment", "class", "status"} for attempt in error["attempts"])
    assert upstream.origin not in answer.text
    assert "10.0.0.7" not in answer.text, "raw upstream text"
    row = served.row(answer.headers["x-request-id"])
    assert (row["status"], row["http_status"]) == ("error", 502)


def test_deployments_of_one_model_replace_each_other(served: Proxy) -> None:
    for _ in range(6):
        answer = served.chat(model="twin")
        assert answer.status_code == 200
        assert answer.headers["x-proxy-deployment"] == "twin#2"


def test_a_repeatedly_failing_deployment_is_in_cooldown(served: Proxy, upstream: Upstream) -> None:
    for _ in range(6):
        assert answer_text(served.chat(model="flapping").text) == GOOD
    assert upstream.journal.models().count("flapping") == 3, (
        "three failures in a row cool it, retries among them"
    )
    health = served.admin("GET", "/health").json()
    assert "cooling" in json.dumps(_entry(health, "flapping"))


def _entry(health: Any, name: str) -> Any:
    """Where the health answer speaks of one model, however it is arranged."""
    if isinstance(health, dict):
        if name in health or name in health.values():
            return health.get(name, health)
        return next((found for value in health.values() if (found := _entry(value, name))), None)
    if isinstance(health, list):
        return next((found for value in health if (found := _entry(value, name))), None)
    return None


def test_the_second_model_replaces_a_killed_upstream(
    proxy: ProxyFactory, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> None:
    doomed = Upstream(tmp_path_factory.mktemp("doomed"))
    try:
        one = proxy(config(doomed.model("main", fallbacks=["backup"]), upstream.model("backup")))
        assert one.chat(model="main").headers["x-proxy-model"] == "main"
    finally:
        doomed.stop()
    for _ in range(3):
        answer = one.chat(model="main")
        assert answer.headers["x-proxy-model"] == "backup"
        assert answer_text(answer.text).startswith("backup-0 ")
