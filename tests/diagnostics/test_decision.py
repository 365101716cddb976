"""What `explain` says is what the gateway does, on configurations and requests that nobody thought of."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from codellama_proxy.config.load import load
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics.decision import Explanation, World, admitted, explain, trace_of, unused
from codellama_proxy.diagnostics.simulation import Course, Fault, Plan, simulate
from codellama_proxy.gateway.admission_request import scopes_of
from codellama_proxy.openai_format.request import InferenceRequest, parse_chat
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.ledger.journal_lines import Admitted, events
from codellama_proxy.store.sqlite import journal
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.counter import Counter
from codellama_proxy.upstream.connection import ProtocolError
from codellama_proxy.upstream.dial import DialError
from tests.support.fake_internet import Internet, Script, good, refusal
from tests.support.gateway_harness import Client, Rig, run
from tests.support.ledger_fixtures import NOW

NAMES = ("a", "b", "c")
FAULTS = {
    "ok": Fault("ok"),
    "500": Fault("status", 500),
    "401": Fault("status", 401),
    "400": Fault("status", 400),
    "too long": Fault("status", 400, code="context_length_exceeded"),
    "429": Fault("status", 429),
    "429, soon": Fault("status", 429, retry_after=1.0),
    "429, late": Fault("status", 429, retry_after=60.0),
    "connect": Fault("connect"),
    "cut": Fault("cut"),
}


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def section(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Each key or not."""
    return st.fixed_dictionaries({}, optional=keys)


LIMITS = section(
    rpm_limit=st.sampled_from([None, 0, 1, 100]),
    tpm_limit=st.sampled_from([None, 0, 5, 1000]),
    max_parallel_requests=st.sampled_from([None, 0, 3]),
    max_budget=st.sampled_from([None, 0, 0.0001, 0.002, 1]),
    budget_duration=st.sampled_from([None, "day", "3h"]),
    shadow=st.booleans(),
)
PATTERNS = maybe(st.lists(st.sampled_from([*NAMES, "*", "[ab]"]), max_size=2))
ENTRIES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "provider": st.just("openai_compatible"),
        "base_url": st.just("https://upstream.example/v1"),
    },
    optional={
        "price": st.sampled_from([{"input": 1, "output": 2}, {"input": 0.1, "output": 30}]),
        "weight": st.sampled_from([1, 5]),
        "max_output_tokens": st.sampled_from([16, 1000]),
        "fallback": st.booleans(),
        "system_prompt": st.sampled_from([False, "Speak of code."]),
        "params": st.sampled_from([{"seed": 1}, {"n": 3}]),
        "api_key": st.sampled_from(["k", "${NOBODY_SETS_THIS}"]),
    },
)
ROUTING = section(
    max_attempts=st.integers(1, 5),
    retries=st.integers(0, 2),
    max_retry_after=st.sampled_from([0, 5, 100]),
    deadline=st.sampled_from([1, 300]),
    fallback_on=st.sampled_from([[], ["context_length"]]),
    unknown_model=st.sampled_from(["error", "default"]),
)
FILES = st.fixed_dictionaries(
    {
        "models": st.lists(ENTRIES, min_size=1, max_size=4),
        "guardrail": section(
            system_prompt=st.sampled_from([False, "Only code."]),
            client_system=st.sampled_from(["keep", "drop", "reject"]),
        ),
        "routing": ROUTING,
        "limits": section(**{"global": LIMITS, "project": LIMITS, "key": LIMITS, "user": LIMITS}),
        "projects": section(
            team=section(
                limits=LIMITS, models=PATTERNS, guardrail=st.sampled_from([None, False, "Be brief."])
            )
        ),
        "cache": st.just({"enabled": False}),
    }
)
KEYS = section(models=PATTERNS, rpm_limit=st.sampled_from([0, 7]), max_budget=st.sampled_from([0, 0.003, 2]))
BODIES = st.fixed_dictionaries(
    {
        "messages": st.sampled_from(
            [
                [{"role": "user", "content": "hello"}],
                [{"role": "system", "content": "Pirate."}, {"role": "user", "content": "x" * 60}],
            ]
        )
    },
    optional={
        "model": st.sampled_from([*NAMES, "nobody"]),
        "max_tokens": st.sampled_from([1, 15, 100, 100_000]),
        "n": st.just(2),
        "user": st.just("u"),
        "stream": st.booleans(),
    },
)
PLANS = st.dictionaries(
    st.sampled_from([f"{name}#{n}" for name in NAMES for n in (1, 2)]),
    st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=3),
)


def explicit(file: dict[str, Any], fallbacks: Sequence[str] | None) -> str:
    """The file with one chain of its own: that of the first model, if it may have one."""
    first = file["models"][0]["name"]
    names = [entry["name"] for entry in file["models"]]
    if fallbacks is not None:
        file["models"][0]["fallbacks"] = [n for n in dict.fromkeys(fallbacks) if n in names and n != first]
    return json.dumps(file)


class Planned(Internet):
    """The same faults as `simulate` plays, as an upstream would send them."""

    def __init__(self, plan: Mapping[str, Sequence[Fault]], directory: Path, *, streamed: bool) -> None:
        super().__init__()
        self.held: set[int] = set()
        """What the ledger held for the request while it was upstream, in nano-USD."""
        self._database = directory / "proxy.db"
        self._plan = plan
        self._calls: dict[str, int] = {}
        self._good = good(streamed=streamed)

    def next_of(self, deployment: str) -> Script | Exception | None:
        for path in journal.files(self._database):
            lines = events(path.read_bytes())
            self.held |= {line.row.hold_nanos for line in lines if isinstance(line, Admitted)}
        faults = self._plan.get(deployment, (Fault("ok"),))
        number = self._calls[deployment] = self._calls.get(deployment, 0) + 1
        fault = faults[min(number, len(faults)) - 1]
        match fault.kind:
            case "ok":
                return self._good
            case "connect":
                return DialError("no")
            case "cut":
                return ProtocolError("no")
        headers = {} if fault.retry_after is None else {"retry_after": f"{fault.retry_after:g}"}
        body = orjson.dumps({"error": {"message": "planned", "code": fault.code or None}})
        return Script((body,), fault.status, refusal(fault.status, **headers).headers)


def lived(
    directory: Path, snapshot: Snapshot, internet: Internet, limits: dict[str, Any], body: dict[str, Any]
) -> tuple[Client, list[Any], list[float], Key]:
    async def use(rig: Rig) -> tuple[Client, list[Any], list[float], Key]:
        rig.wall = NOW
        key, secret = await rig.keys.create(key_values.read({"key_alias": "team", **limits}))
        client = await rig.ask(secret=secret, **body)
        await rig.accounts.close()
        await rig.writer.barrier()
        rows = await rig.reader.all("select attempts, deployment, status from requests")
        return client, rows, rig.clock.slept, key

    return run(directory, snapshot, internet, use)


def explained(
    directory: Path, snapshot: Snapshot, key: Key, chat: InferenceRequest, plan: Plan
) -> tuple[Explanation, Course | None]:
    counter = Counter(directory)

    def count(asked: InferenceRequest, first: Deployment) -> int:
        if scopes_of(trace_of(snapshot, key, asked, 0.0), asked, snapshot).counts_tokens:
            return asyncio.run(counter.prompt(asked, first))
        return tokens.of_size(asked.size)

    told = explain(snapshot, key, chat, World(count, unused(NOW), NOW))
    if told.error is not None:
        return told, None
    trace = admitted(snapshot, key, chat, told)
    return told, simulate(trace, chat, told.models, snapshot, plan)


@settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking databases takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(FILES, maybe(st.lists(st.sampled_from(NAMES), max_size=3)), KEYS, BODIES, PLANS)
def test_explain_and_the_gateway_agree(
    file: dict[str, Any],
    fallbacks: Sequence[str] | None,
    limits: dict[str, Any],
    body: dict[str, Any],
    planned: Mapping[str, Sequence[str]],
) -> None:
    body = {"stream": False, **body}
    snapshot = load(explicit(file, fallbacks).encode(), {}, implemented=IMPLEMENTED)
    plan = {name: tuple(FAULTS[one] for one in faults) for name, faults in planned.items()}
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        internet = Planned(plan, directory, streamed=bool(body.get("stream")))
        client, rows, slept, key = lived(directory, snapshot, internet, limits, body)
        told, course = explained(directory, snapshot, key, parse_chat(orjson.dumps(body)), plan)

    if told.error is not None:
        event(f"refused: {told.error.code}")
        assert internet.sent == []
        assert client.json["error"]["code"] == told.error.code
        assert client.json["error"]["message"] == told.error.message
        return
    assert course is not None
    event(f"attempts: {len(course.attempts)}")
    [(attempts, served, status)] = rows
    assert [a["deployment"] for a in json.loads(attempts)] == [a.deployment for a in course.attempts]
    assert [a["class"] for a in json.loads(attempts)] == [a.to_json()["class"] for a in course.attempts]
    assert slept == list(course.slept)
    assert (served, status) == (course.served, "ok" if course.served else "error")
    assert told.admission is not None
    # Attempts that cost something extend the hold of those that follow.
    assert min(internet.held) == told.admission.hold_nanos
    if course.error is not None:
        assert client.json["error"]["code"] == course.error.code
    places = {one.deployment.id: one for one in told.chain}
    for sent in internet.sent:
        first = sent.body["messages"][0]
        guardrail = places[sent.deployment].guardrail
        assert (first["role"] == "system" and first["content"] == guardrail) if guardrail else True
        bound = told.admission.max_tokens if told.admission.max_tokens is not None else body.get("max_tokens")
        assert sent.body.get("max_tokens") == bound
