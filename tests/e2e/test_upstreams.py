"""Hostile and failing upstreams: what the caller hears when nobody else is left, and who is spared meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from typing import Any

import httpx2
import pytest

from tests.support.processes import free_port, until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request
from tests.support.upstream.process import Upstream

QUICK = {"connect": "1s", "first_token": "300ms", "idle": "300ms", "answer": "400ms"}
"""Of upstreams that say nothing."""
PATIENT = {"connect": "5s", "first_token": "20s", "idle": "20s", "answer": "20s"}
"""Of upstreams that fail in other ways, on a busy machine."""
LONGEST = 2
COOLING = {"failures": 3, "time": "1s", "max_time": f"{LONGEST}s", "auth_time": "1s"}
DEADLINE = 3.0

# script -> status and code when it is the only one to ask, how often it is asked; with and without a stream
ALONE: dict[str, tuple[int, str, int]] = {
    "status=400;message=Not so.": (400, "upstream_rejected", 1),
    "status=422": (400, "upstream_rejected", 1),
    "status=413": (400, "upstream_rejected", 1),
    "status=400;code=context_length_exceeded": (400, "context_length_exceeded", 1),
    "status=400;code=content_filter": (400, "content_filter", 1),
    "status=400;message=You exceeded your current quota": (400, "upstream_rejected", 1),
    "status=401": (502, "upstream_auth_failed", 1),
    "status=403": (502, "upstream_auth_failed", 1),
    "status=402": (502, "upstream_auth_failed", 1),
    "status=404": (502, "upstream_auth_failed", 1),
    "status=429;code=insufficient_quota": (502, "upstream_auth_failed", 1),
    "status=429": (429, "upstream_rate_limited", 1),
    "status=429;retry_after=0.05": (429, "upstream_rate_limited", 4),
    "status=503;retry_after=30": (429, "upstream_rate_limited", 1),
    "status=529": (429, "upstream_rate_limited", 1),
    "status=408": (502, "upstream_error", 2),
    "status=409": (502, "upstream_error", 2),
    "status=500": (502, "upstream_error", 2),
    "status=503": (502, "upstream_error", 2),
    "status=599": (502, "upstream_error", 2),
    "drop": (502, "upstream_error", 2),
    "reset": (502, "upstream_error", 2),
    "hang": (504, "upstream_timeout", 2),
    "html": (502, "upstream_invalid_response", 2),
    "empty": (502, "upstream_invalid_response", 2),
    "error_200": (502, "upstream_invalid_response", 2),
    "error_200;code=400": (400, "upstream_rejected", 1),
    "error_200;code=tool_use_failed": (400, "upstream_rejected", 1),
    "error_200;code=401": (502, "upstream_auth_failed", 1),
    "error_200;code=429": (429, "upstream_rate_limited", 1),
    "error_200;code=503": (502, "upstream_error", 2),
    "gzip_bomb": (502, "upstream_invalid_response", 2),
    "redirect=http://169.254.169.254/": (502, "upstream_invalid_response", 2),
    "huge_header": (502, "upstream_error", 2),
    "many_headers": (502, "upstream_error", 2),
}
ALONE_STREAMED: dict[str, tuple[int, str, int]] = {
    "comments_only": (504, "upstream_timeout", 2),
    "roles_only": (504, "upstream_timeout", 2),
    "stall=0": (504, "upstream_timeout", 2),
    "empty_stream": (502, "upstream_invalid_response", 2),
    "error_event_first": (502, "upstream_invalid_response", 2),
    "error_event_first;code=400": (400, "upstream_rejected", 1),
    "role_then_fail;code=tool_use_failed": (400, "upstream_rejected", 1),
    "role_then_fail": (502, "upstream_invalid_response", 2),
    "cut_clean=0": (502, "upstream_invalid_response", 2),
}
ALONE_WHOLE: dict[str, tuple[int, str, int]] = {
    "truncated": (502, "upstream_invalid_response", 2),
    "no_choices": (502, "upstream_invalid_response", 2),
    "stall": (504, "upstream_timeout", 2),
    "cut": (502, "upstream_error", 2),
}
CASES = [
    *((script, streamed, *told) for script, told in ALONE.items() for streamed in (False, True)),
    *((script, True, *told) for script, told in ALONE_STREAMED.items()),
    *((script, False, *told) for script, told in ALONE_WHOLE.items()),
]
ODD = ["http10", "continue100", "no_content_type", "byte_by_byte", "close", "trailers"]


def label(script: str, streamed: bool) -> str:
    return f"bad-{[case[:2] for case in CASES].index((script, streamed))}"


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An upstream nobody is sent to, but by redirects."""
    one = Upstream(tmp_path_factory.mktemp("canary"))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, canary: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    elsewhere = canary.url.replace("/", "%2F")
    text = config(
        *(
            model(label(script, streamed), script, timeouts=QUICK if told[0] == 504 else PATIENT)
            for script, streamed, *told in CASES
        ),
        *(model(f"odd-{how}", how) for how in ODD),
        *(model(f"moved-{status}", f"redirect={elsewhere}", fallbacks=["good"]) for status in (1, 2)),
        model("junk", "junk"),
        model("picky", "error_event_after=2;code=400"),
        model("echoing", "status=400;message=insufficient_quota: model_not_found"),
        model("stalling", "stall=3;every=0.01", timeouts={**PATIENT, "idle": "1s"}, fallbacks=["good"]),
        model("good"),
        model("down", "status=500", fallbacks=["good"]),
        model("flop", "status=500|status=500|status=500|status=500|ok", fallbacks=["good"]),
        model("closed", base_url=f"http://127.0.0.1:{free_port()}/v1", fallbacks=["good"]),
        model("heavy", "ok", weight=3),
        model("heavy", "ok", weight=1),
        model("hour", "status=429;retry_after=3600"),
        model("ms", "status=429;retry_after_ms=1500"),
        model("date", f"status=429;retry_after={formatdate(time.time() + 7200, usegmt=True)}"),
        model("abc", "status=429;retry_after=abc"),
        model("minus", "status=429;retry_after=-5"),
        model("infinite", "status=429;retry_after=1e309"),
        model("first", "status=500", fallbacks=["second", "third"]),
        model("second", "html"),
        model("third", "status=401"),
        routing={"cooldown": COOLING, "deadline": "1m", "max_retry_after": "100ms"},
    )
    return module_proxy(text)


def answer_text(answer: httpx2.Response) -> str:
    if not answer.text.startswith("data:"):
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content
    return streamed_text(answer.text)


def streamed_text(body: str) -> str:
    lines = [line[6:] for line in body.split("\n\n") if line and line != "data: [DONE]"]
    return "".join(c["delta"].get("content") or "" for line in lines for c in json.loads(line)["choices"])


def words(name: str) -> str:
    return " ".join(f"{name}-{i}" for i in range(8))


def state(served: Proxy, name: str) -> dict[str, Any]:
    models = served.admin("GET", "/health").json()["models"]
    found: dict[str, Any] = next(one for one in models if one["model"] == name)
    return found


def cooldown_metric(served: Proxy, name: str) -> float:
    lines = served.admin("GET", "/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f'proxy_cooldown{{deployment="{name}#1"}}')]
    return float(line.rpartition(" ")[2])


# --- what the caller hears -------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "streamed", "status", "code", "calls"), CASES)
def test_the_caller_gets_the_last_attempts_error(
    served: Proxy, upstream: Upstream, script: str, streamed: bool, status: int, code: str, calls: int
) -> None:
    name = label(script, streamed)
    answer = served.chat(model=name, stream=streamed)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert len(upstream.journal.requests()) == calls
    explained(served, answer, [f"{name}#1"] * calls)
    for secret in (str(upstream.port), "127.0.0.1", "169.254", "10.0.0.7", "sk-upstream", "<html"):
        assert secret not in answer.text
    assert ("retry-after" in answer.headers) is (status == 429)
    assert answer.headers.get("x-should-retry") == (None if status == 429 else "false")


def explained(served: Proxy, answer: httpx2.Response, deployments: list[str]) -> None:
    """Headers, error, row and log line tell the same story."""
    listed = answer.json()["error"]["attempts"]
    assert [one["deployment"] for one in listed] == deployments
    assert answer.headers["x-proxy-attempts"] == str(len(deployments))
    assert float(answer.headers["x-proxy-overhead-ms"]) >= 0
    assert answer.headers["x-proxy-config"]
    assert answer.headers["x-proxy-cache"]
    assert "x-proxy-model" not in answer.headers, "nobody served"
    row = served.row(answer.headers["x-request-id"])
    assert [{k: one[k] for k in ("deployment", "class", "status")} for one in row["attempts"]] == listed
    assert all(one["reason"] and one["ms"] >= 0 for one in row["attempts"])
    assert (row["status"], row["http_status"]) == ("error", answer.status_code)
    line = until(
        lambda: [one for one in served.log_lines() if one.get("request_id") == row["request_id"]],
        "its log line",
    )[0]
    assert line["attempts"] == row["attempts"]
    assert line["error"] == answer.json()["error"]["code"]


def test_the_error_lists_every_attempt(served: Proxy, upstream: Upstream) -> None:
    answer = served.chat(model="first")
    assert answer.json()["error"]["code"] in ("upstream_error", "upstream_invalid_response")
    assert upstream.journal.models()[:4] == ["first", "first", "second", "second"]
    tried = [f"{name}#1" for name in upstream.journal.models()]
    explained(served, answer, tried)
    row = served.row(answer.headers["x-request-id"])
    assert [one["reason"] for one in row["attempts"]][:4] == ["http_500"] * 2 + ["not_json"] * 2


# --- strange, and worse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ODD)
def test_unusual_but_valid_answers_are_accepted(served: Proxy, how: str, streamed: bool) -> None:
    answer = served.chat(model=f"odd-{how}", stream=streamed)
    assert answer.status_code == 200, answer.text
    assert answer_text(answer) == words(f"odd-{how}")


@pytest.mark.parametrize("streamed", [False, True])
def test_redirects_are_not_followed(served: Proxy, canary: Upstream, streamed: bool) -> None:
    answer = served.chat(model=f"moved-{1 + streamed}", stream=streamed)
    assert answer_text(answer) == words("good")
    assert canary.journal.events() == [], "no credential, no prompt, not even a connection"


def test_bytes_after_an_answer_are_not_the_next_answer(served: Proxy, upstream: Upstream) -> None:
    for number in range(10):
        answer = served.chat(model="junk", stream=number % 2 == 1)
        assert answer_text(answer) == words("junk")
        assert answer.headers["x-proxy-attempts"] == "1"
        dropped = {"connection": upstream.journal.requests("junk")[-1]["connection"], "by_peer": True}
        until(partial(upstream.journal.events, "closed", **dropped), "the proxy drops the connection")


def test_a_stream_without_end_ends_at_the_deadline(proxy: ProxyFactory, upstream: Upstream) -> None:
    served = proxy(
        config(upstream.model("forever", "every=0.05;tokens=2000"), routing={"deadline": f"{DEADLINE}s"})
    )
    began = time.monotonic()
    answer = served.chat(model="forever", stream=True)
    assert time.monotonic() - began > DEADLINE - 0.2
    *chunks, last = answer.text.strip().split("\n\n")
    assert json.loads(last[6:])["error"]["code"] == "deadline_exceeded"
    assert "forever-3" in "".join(chunks)
    (sent,) = upstream.journal.requests()
    until(lambda: upstream.journal.closed(sent["request"]), "the upstream is let go")
    row = served.row(answer.headers["x-request-id"])
    assert (row["status"], row["basis"], row["http_status"]) == ("error", "estimated", 200)
    assert row["cost_usd"] > 0


def test_a_stalled_stream_ends_without_a_fallback(served: Proxy, upstream: Upstream) -> None:
    began = time.monotonic()
    answer = served.chat(model="stalling", stream=True)
    assert time.monotonic() - began < 10
    assert json.loads(answer.text.strip().split("\n\n")[-1][6:])["error"]["code"] == "upstream_timeout"
    assert "[DONE]" not in answer.text
    assert upstream.journal.models() == ["stalling"]


@pytest.mark.parametrize(("name", "streamed"), [("picky", True), ("echoing", False), ("echoing", True)])
def test_client_errors_cause_no_cooldown(served: Proxy, name: str, streamed: bool) -> None:
    """Whether its fault is told with a status, inside of a stream, or in the words of a quota that is used up."""
    for _ in range(4):
        answer = served.chat(model=name, stream=streamed)
        assert answer.headers["x-proxy-attempts"] == "1"
        assert "upstream_rejected" in answer.text
        assert served.row(answer.headers["x-request-id"])["attempts"][0]["class"] == "caller"
    assert state(served, name)["state"] == "ready"


# --- cooling -----------------------------------------------------------------------------------------------


def cooled(served: Proxy, name: str) -> None:
    for _ in range(3):
        assert answer_text(served.chat(model=name)) == words("good")
    assert state(served, name)["state"] == "cooling"


def test_three_failures_start_a_cooldown(served: Proxy, upstream: Upstream) -> None:
    cooled(served, "down")
    assert state(served, "down")["why"] == "http_500"
    assert state(served, "down")["until"]
    assert cooldown_metric(served, "down") == 1
    assert served.chat(model="down").headers["x-proxy-attempts"] == "1"
    assert upstream.journal.models() == ["down", "down", "good", "down", "good", "good", "good"]


@pytest.mark.one_process("cooldowns are each server's own")
def test_exactly_one_of_fifty_requests_probes_and_success_ends_the_cooldown(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    served = proxy(
        config(
            upstream.model("flip", "status=500|status=500|status=500|gate=0", fallbacks=["good"]),
            upstream.model("good"),
            routing={"cooldown": COOLING, "deadline": "2m"},  # the probe waits for all others
        )
    )
    cooled(served, "flip")
    until(lambda: state(served, "flip")["state"] == "ready", "the cooldown is over")
    upstream.fresh()
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(one_of_many, served) for _ in range(50)]
        until(lambda: sum(one.done() for one in asked) == 49, "all others are answered")
        upstream.open_gate("flip")
        answers = [one.result() for one in asked]
    assert Counter(answers) == {words("flip"): 1, words("good"): 49}
    assert Counter(upstream.journal.models()) == {"flip": 1, "good": 49}
    assert cooldown_metric(served, "flip") == 0
    assert answer_text(served.chat(model="flip")) == words("flip")


def one_of_many(served: Proxy) -> str:
    body = {"model": "flip", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with Wire(served.port, timeout=60) as wire:
        return streamed_text(
            wire.send(request("/v1/chat/completions", body, **served.auth)).reply().body.decode()
        )


def test_a_failed_probe_doubles_the_cooldown_and_a_successful_one_ends_it(
    served: Proxy, upstream: Upstream
) -> None:
    cooled(served, "flop")
    asked = 3

    def probed() -> bool:
        assert served.chat(model="flop").status_code == 200
        return len(upstream.journal.requests("flop")) > asked

    until(probed, "the first probe")
    asked = 4
    until(probed, "the second probe")
    *_, failed, second = (one["at"] for one in upstream.journal.requests("flop"))
    assert 1.9 < second - failed < 20, "twice a second"
    assert answer_text(served.chat(model="flop")) == words("flop")
    assert state(served, "flop")["state"] == "ready"


def test_an_unreachable_upstream_adds_little_latency(served: Proxy) -> None:
    took = []
    for _ in range(20):
        began = time.monotonic()
        assert answer_text(served.chat(model="closed")) == words("good")
        took.append(time.monotonic() - began)
    assert sorted(took)[15] < 2, "no connection is waited for"


@pytest.mark.parametrize("name", ["hour", "ms", "date", "abc", "minus", "infinite"])
def test_retry_after_is_bounded_for_every_upstream_format(served: Proxy, name: str) -> None:
    answer = served.chat(model=name)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "upstream_rate_limited")
    told, precise = int(answer.headers["retry-after"]), int(answer.headers["retry-after-ms"])
    assert 1 <= told <= LONGEST
    assert told - 1 <= precise / 1000 <= told
    assert name not in ("hour", "date") or told == LONGEST
    assert name != "ms" or precise == 1500
    assert state(served, name)["state"] == "cooling"


def test_conversations_are_shared_by_weight(served: Proxy) -> None:
    prompts = [f"conversation {number}" for number in range(120)]
    answers = [served.chat(model="heavy", prompt=prompt) for prompt in prompts]
    served_by = Counter(answer.headers["x-proxy-deployment"] for answer in answers)
    assert served_by.keys() == {"heavy#1", "heavy#2"}
    assert 65 < served_by["heavy#1"] < 112, "three of four, and six standard deviations"


def test_retry_delays_have_jitter(proxy: ProxyFactory, upstream: Upstream) -> None:
    patient = {"cooldown": {"failures": 1000}, "backoff": {"initial": "100ms"}}
    one = proxy(config(upstream.model("down", "status=500"), routing=patient))
    for _ in range(16):
        assert one.chat(model="down").headers["x-proxy-attempts"] == "2"
    times = [one["at"] for one in upstream.journal.requests()]
    waits = [second - first for first, second in zip(times[::2], times[1::2], strict=True)]
    assert len({int(wait * 100) for wait in waits}) > 2, (
        "they are spread over 100 ms, not all within the same 20 ms"
    )


def test_a_new_key_or_address_ends_the_cooldown(proxy: ProxyFactory, upstream: Upstream) -> None:
    def text(key: str, prompt: str) -> str:
        model = upstream.model("moody", "status=500", api_key=f"sk-upstream-secret-{key}", fallbacks=["good"])
        cooling = {"cooldown": {"failures": 1, "time": "300s"}}
        return config(model, upstream.model("good", system_prompt=prompt), routing=cooling)

    def reloaded(to: str) -> None:
        before = one.client.get("/health/readiness").json()["config"]["digest"]
        one.config_path.write_text(to)
        until(
            lambda: one.client.get("/health/readiness").json()["config"]["digest"] != before, "it is reloaded"
        )

    one = proxy(text("a", "Be good."))
    assert one.chat(model="moody").status_code == 200
    assert state(one, "moody")["state"] == "cooling"
    reloaded(text("a", "Be better."))
    assert state(one, "moody")["state"] == "cooling", "nothing about it has changed"
    reloaded(text("b", "Be better."))
    assert state(one, "moody")["state"] == "ready"
    assert cooldown_metric(one, "moody") == 0
