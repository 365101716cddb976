"""Attempts at one deployment over a fake internet: played to their end, with a look at what is left open.

The clock jumps to whatever is waited for, so no timeout depends on how busy the machine is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from codellama_proxy.core.snapshot import Deployment, Timeouts
from codellama_proxy.core.types import Event, Failure, HttpRequest
from codellama_proxy.diagnostics.simulation import at_once
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.registry import ADAPTERS
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.upstream.reply import Reply
from tests.support.builders import chat, deployment
from tests.support.fake_internet import Internet, Script

A = deployment("a")
HASTY = deployment("a", timeouts=Timeouts(first_token=0.03, answer=0.03))
"""The same, with no patience at all."""


class Call:
    """Attempts at deployment `a`, over pools of their own."""

    def __init__(self, *scripts: Script | Exception | None) -> None:
        self.internet = Internet(a=scripts)
        self.pools = Pools(self.internet.make)
        self.noted: list[Event] = []

    async def open(self, *, streamed: bool, budget: float = 5.0, where: Deployment = A) -> Reply:
        asked = chat(stream=streamed)
        sent: HttpRequest = ADAPTERS[where.provider].to_request(asked, where)
        return await open_reply(self.pools, sent, asked, where, budget, note=self.noted.extend)

    @property
    def text(self) -> str:
        """What is counted of the answer, served or not."""
        return answer_text(self.noted)

    def check_nothing_is_open(self, where: Deployment = A) -> None:
        assert self.pools.of(where).users == 0
        assert all(body.closed for body in self.internet.bodies)


def playing(*scripts: Script | Exception | None, streamed: bool, **how: Any) -> tuple[Failure, Call]:
    """The failure of an attempt that must fail before its first event."""
    call = Call(*scripts)

    async def main() -> Failure:
        with pytest.raises(AttemptError) as caught:
            await call.open(streamed=streamed, **how)
        call.check_nothing_is_open(how.get("where", A))
        return caught.value.failure

    return at_once(main()), call


def reading(
    script: Script, *, streamed: bool = True, idle: float = 5.0, where: Deployment = A, budget: float = 5.0
) -> tuple[list[Event], Failure | None, Call]:
    """All events of an attempt, and the failure that ended it."""
    call = Call(script)

    async def main() -> tuple[list[Event], Failure | None]:
        reply = await call.open(streamed=streamed, where=where, budget=budget)
        events = list(reply.first)
        try:
            while not reply.ended:
                events += await reply.more(idle)
        except AttemptError as failed:
            return events, failed.failure
        finally:
            await reply.close()
            call.check_nothing_is_open(where)
        return events, None

    return *at_once(main()), call


def answer_text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events)
