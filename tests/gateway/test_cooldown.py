"""Whom a cooling deployment gets to see: one request at a time, however many come at once."""

import asyncio
from pathlib import Path

import pytest

from codellama_proxy.core.snapshot import Cooldown, Limits, Price, Routing
from codellama_proxy.upstream.connection import ConnectionLostError
from tests.support.builders import deployment, model, snapshot
from tests.support.dialogues import OPENAI
from tests.support.fake_internet import Internet, Script, good, refusal
from tests.support.gateway_harness import Client, Play, Rig, player

LIMITS = snapshot(model("a")).limits
TEXT = OPENAI.answers["text"]
BOTH = pytest.mark.parametrize("streamed", [False, True])
MANY = 12
RULES = Routing(retries=0, cooldown=Cooldown(failures=1, time=30.0))


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path, snapshot(model("a"), routing=RULES))


class Late:
    """An answer that comes when all others have been refused."""

    def __init__(self, script: Script) -> None:
        self._gate = asyncio.Event()
        self.script = Script((self._gate, *script.pieces), script.status, script.headers)

    async def asked(self, rig: Rig, *, streamed: bool) -> list[Client]:
        """What many requests at once get."""
        asking = [
            asyncio.create_task(rig.ask(stream=streamed, messages=user_message(f"question {number}")))
            for number in range(MANY)
        ]
        async with asyncio.timeout(30):
            waiting = set(asking)
            while len(waiting) > 1 and not self._gate.is_set():
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self._gate.set()
            return list(await asyncio.gather(*asking))


def user_message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@BOTH
@pytest.mark.parametrize(
    ("first", "status", "code", "wait"),
    [
        (refusal(500), 503, "upstream_unavailable", 30),
        (refusal(401), 503, "upstream_unavailable", 300),
        (refusal(429, retry_after="40"), 429, "upstream_rate_limited", 40),
    ],
)
def test_one_request_probes_and_the_others_get_retry_after_immediately(
    play: Play, streamed: bool, first: Script, status: int, code: str, wait: int
) -> None:
    late = Late(good(streamed=streamed))

    async def use(rig: Rig) -> None:
        await rig.ask(stream=streamed)
        asked = len(rig.internet.asked)
        rig.clock.now += 10.0
        clients = await late.asked(rig, streamed=streamed)
        assert rig.internet.asked[asked:] == ["a#1"]
        refused = [client for client in clients if client.status != 200]
        assert len(refused) == MANY - 1
        for client in refused:
            assert (client.status, client.json["error"]["code"]) == (status, code)
            assert client.headers["retry-after"] == str(wait - 10)
            assert client.headers["x-proxy-attempts"] == "0"
        assert all(client.answer_text == TEXT.text for client in await late.asked(rig, streamed=streamed)), (
            "it is over"
        )

    play(Internet(a=[first, late.script]), use)


@BOTH
def test_a_failed_probe_doubles_the_cooldown_and_frees_the_probe_slot(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        for after, wait in [(0.0, 30.0), (1.0, 60.0), (1.0, 120.0)]:
            rig.clock.now += after
            assert (await rig.ask(stream=streamed)).status == 502
            assert rig.cooldowns.states()["a#1"].until == rig.clock.now + wait
        assert rig.internet.asked == ["a#1"] * 3

    play(Internet(a=[refusal(500)]), use)


@BOTH
def test_a_probe_is_one_upstream_call(play: Play, streamed: bool) -> None:
    late = Late(refusal(500))

    async def use(rig: Rig) -> None:
        await rig.ask(stream=streamed)
        asked = len(rig.internet.asked)
        clients = await late.asked(rig, streamed=streamed)
        assert len(rig.internet.asked) == asked + 1
        assert sorted(client.status for client in clients) == [502] + [503] * (MANY - 1)

    retrying = Routing(retries=3, max_attempts=10, cooldown=Cooldown(failures=1, time=30.0))
    down = [refusal(500)] * 4
    play(Internet(a=[*down, late.script]), use, snapshot(model("a"), routing=retrying))


@BOTH
def test_a_cooling_chain_is_probed_at_the_deployment_ready_first(play: Play, streamed: bool) -> None:
    late = Late(good(streamed=streamed))

    async def use(rig: Rig) -> None:
        assert (await rig.ask(stream=streamed)).status == 429
        assert rig.internet.asked == ["a#1", "b#1"]
        clients = await late.asked(rig, streamed=streamed)
        assert rig.internet.asked[2:] == ["b#1"]
        assert sorted(client.status for client in clients) == [200] + [429] * (MANY - 1)
        assert {client.headers.get("retry-after") for client in clients} == {None, "20"}

    internet = Internet(a=[refusal(401)], b=[refusal(429, retry_after="20"), late.script])
    play(internet, use, snapshot(model("a"), model("b"), routing=RULES))


@BOTH
def test_a_disconnect_during_a_probe_frees_the_probe_slot(play: Play, streamed: bool) -> None:
    async def use(rig: Rig) -> None:
        await rig.ask(stream=streamed)
        leaving = asyncio.create_task(rig.ask(stream=streamed, messages=user_message("leaving")))
        while len(rig.internet.asked) < 2:
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert (await rig.ask(stream=streamed, messages=user_message("next"))).answer_text == TEXT.text

    play(Internet(a=[refusal(500), None, good(streamed=streamed)]), use)


@BOTH
def test_cooldowns_are_checked_again_after_admission(play: Play, streamed: bool) -> None:
    """Each has a failed attempt to pay for before it may ask the one that cools."""

    late = Late(good(streamed=streamed))

    async def use(rig: Rig) -> None:
        await rig.ask(stream=streamed)
        assert rig.internet.asked == ["a#1", "b#1"]
        clients = await late.asked(rig, streamed=streamed)
        assert rig.internet.asked[2:].count("b#1") == 1
        assert sorted(client.status for client in clients) == [200] + [502] * (MANY - 1)

    price = Price(input=10**9, output=10**9)
    setting = snapshot(
        *(model(name, deployment(name, price=price)) for name in "ab"),
        limits={**LIMITS, "global": Limits(max_budget=10**12, given=frozenset({"max_budget"}))},
        routing=Routing(retries=0, cooldown=Cooldown(failures=1000)),
    )
    broken = ConnectionLostError("gone")
    play(Internet(a=[broken], b=[refusal(401), late.script]), use, setting)
