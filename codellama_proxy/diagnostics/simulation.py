"""Simulates a request with planned upstream failures: the live attempt runner, over a mock transport.

The event loop's clock jumps instead of waiting, so timeouts, delays and cooldowns are the real ones without the time.
The transport raises `SimulatedAnswer` for a successful answer, so that no provider's response has to be generated.
"""

from __future__ import annotations

import asyncio
import re
import selectors
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.core.types import Attempt, HttpRequest
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain
from codellama_proxy.routing.cooldown import Cooldowns, is_cooling
from codellama_proxy.upstream.dial import DialError
from codellama_proxy.upstream.http import BytesBody, Response, Transport, TransportError
from codellama_proxy.upstream.pools import Pools, identity_of

T = TypeVar("T")

JITTER = 0.5
"""Every delay is half of its maximum."""
GRAMMAR = (
    'a plan is "NAME: FAULT, FAULT; NAME: FAULT": the faults of one model or deployment in turn, the last again '
    "and again; a fault is a status (429 retry-after 20, 400 context_length_exceeded), timeout, connect, cut, "
    "empty or ok, each also with `after 2s`"
)
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class PlanError(ValueError):
    """An invalid plan; the message says why."""


class SimulatedAnswer(Exception):  # noqa: N818 - not an error: it ends the simulation
    """The upstream answers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What an upstream does with one request."""

    kind: str
    """`ok`, `status`, `timeout`, `connect`, `cut` or `empty`."""
    status: int = 200
    retry_after: float | None = None
    code: str = ""
    after: float = 0.0
    """Seconds until it does so."""


Plan = Mapping[str, tuple[Fault, ...]]
"""By model or deployment id; all others answer."""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One line of the timeline, `at` seconds into the request."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Course:
    """How the request went."""

    events: tuple[TimelineEvent, ...]
    attempts: tuple[Attempt, ...]
    served: str | None
    """The deployment that answered."""
    error: ProxyError | None
    slept: tuple[float, ...]
    seconds: float


# --- the plan ------------------------------------------------------------------------------------------------


def parse(text: str, snapshot: Snapshot) -> Plan:
    """Raises `PlanError`."""
    known = {*snapshot.models, *(d.id for model in snapshot.models.values() for d in model.deployments)}
    plan: dict[str, tuple[Fault, ...]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        match = re.fullmatch(r"(\S+)\s*:\s*(.+)", part)
        if match is None:
            raise PlanError(f"{part!r} is not part of a plan; {GRAMMAR}")
        if match[1] not in known:
            raise PlanError(f"there is no enabled model or deployment {match[1]!r}")
        plan[match[1]] = tuple(_fault(one.strip()) for one in match[2].split(","))
    return plan


def _fault(text: str) -> Fault:
    words = text.split()
    options = {"after": 0.0, "retry-after": -1.0}
    for name in options:
        if name in words[1:]:
            at = words.index(name)
            options[name] = _seconds(words[at + 1 : at + 2])
            del words[at : at + 2]
    retry_after = None if options["retry-after"] < 0 else options["retry-after"]
    match words:
        case ["ok" | "timeout" | "connect" | "cut" | "empty" as kind]:
            return Fault(kind, after=options["after"])
        case [status, *code] if re.fullmatch("[1-5][0-9][0-9]", status) and status != "200" and len(code) < 2:
            return Fault("status", int(status), retry_after, "".join(code), options["after"])
    raise PlanError(f"{text!r} is not a fault; {GRAMMAR}")


def _seconds(words: Sequence[str]) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", words[0]) if words else None
    if match is None:
        raise PlanError(f"a duration such as 20 or 250ms is missing; {GRAMMAR}")
    return float(match[1]) * _UNITS[match[2]]


# --- the run -------------------------------------------------------------------------------------------------


class MockUpstreams:
    """Creates the mock transports; each deployment follows its own plan, or its model's."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._calls: dict[str, int] = {}
        self.called: list[tuple[float, Deployment]] = []

    def make(self, deployment: Deployment) -> Transport:
        return _MockUpstream(self, deployment)

    async def play(self, deployment: Deployment) -> Response:
        self.called.append((asyncio.get_running_loop().time(), deployment))
        part = deployment.id if deployment.id in self._plan else deployment.name
        faults = self._plan.get(part, (Fault("ok"),))
        number = self._calls[part] = self._calls.get(part, 0) + 1
        return await _played(faults[min(number, len(faults)) - 1])


class _MockUpstream:
    """The transport of one deployment."""

    def __init__(self, upstreams: MockUpstreams, deployment: Deployment) -> None:
        self._upstreams = upstreams
        self._deployment = deployment

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        del request, connect_seconds
        return await self._upstreams.play(self._deployment)

    async def aclose(self) -> None:
        return


async def _played(fault: Fault) -> Response:
    await asyncio.sleep(fault.after)
    match fault.kind:
        case "ok":
            raise SimulatedAnswer
        case "timeout":
            await asyncio.sleep(10**9)
        case "connect":
            raise DialError("planned")
        case "cut":
            raise TransportError("planned")
        case "empty":
            return Response(200, {"content-type": "text/event-stream"}, BytesBody())
    headers = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
    error = {"error": {"message": "planned", "code": fault.code or None}}
    return Response(fault.status, headers, BytesBody(orjson.dumps(error)))


async def _course(
    trace: RequestContext, chat: InferenceRequest, models: Sequence[Model], snapshot: Snapshot, plan: Plan
) -> Course:
    loop = asyncio.get_running_loop()
    stage, sleeps = MockUpstreams(plan), list[tuple[float, float]]()

    async def sleep(seconds: float) -> None:
        sleeps.append((loop.time(), seconds))
        await asyncio.sleep(seconds)

    time = Time(monotonic=loop.time, sleep=sleep, jitter=lambda: JITTER)
    pools, cooldowns = Pools(stage.make), Cooldowns(identity_of, loop.time)
    served, error = None, None
    try:
        reply = await AttemptRunner(pools, cooldowns, time).run(trace, chat, Chain(models), snapshot)
        await reply.close()
    except SimulatedAnswer:
        served = stage.called[-1][1].id
        trace.attempts[-1] = trace.attempts[-1]._replace(failure=None)
    except ProxyError as refused:
        error = refused
    finally:
        await pools.close()
    events = [*_report(stage, trace.attempts, cooldowns, loop.time()), *_pauses(sleeps)]
    return Course(
        tuple(sorted(events, key=lambda event: event.at)),
        tuple(trace.attempts),
        served,
        error,
        tuple(seconds for _, seconds in sleeps),
        loop.time(),
    )


def _report(
    stage: MockUpstreams, attempts: Sequence[Attempt], cooldowns: Cooldowns, now: float
) -> list[TimelineEvent]:
    found = []
    for (at, deployment), attempt in zip(stage.called, attempts, strict=False):
        failure = attempt.failure
        took = f" after {attempt.ms / 1000:g} s" if attempt.ms >= 1 else ""
        if failure is None:
            found.append(TimelineEvent(at, f"{deployment.id} answers{took}"))
            continue
        reason = failure.reason or failure.cls
        found.append(TimelineEvent(at, f"{deployment.id} fails{took}: {failure.cls} ({reason})"))
    for deployment_id, state in cooldowns.states().items():
        if is_cooling(state, now):
            found.append(
                TimelineEvent(now, f"{deployment_id} now cools until {state.until:g} s ({state.why})")
            )
    return found


def _pauses(sleeps: Sequence[tuple[float, float]]) -> list[TimelineEvent]:
    return [TimelineEvent(at, f"waits {seconds:g} s") for at, seconds in sleeps]


def simulate(
    trace: RequestContext, chat: InferenceRequest, models: Sequence[Model], snapshot: Snapshot, plan: Plan
) -> Course:
    """`trace`: the context of an admitted request that begins now."""
    return at_once(_course(trace, chat, models, snapshot, plan))


# --- the clock -----------------------------------------------------------------------------------------------


class _Jumping(selectors.SelectSelector):
    """Advances its clock by the timeout instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def at_once(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` on a clock that starts at 0 and skips waiting."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
