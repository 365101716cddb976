"""The real gateway on a real database, between a fake internet and fake clients."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from codellama_proxy.auth.keys import Keys
from codellama_proxy.cache.lookup import CacheLookup
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import WriteChunk
from codellama_proxy.gateway.accounting import Accounting
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.gateway.embedding_request import Embedder
from codellama_proxy.gateway.pipeline import Gateway
from codellama_proxy.gateway.respond import ClientDisconnectedError
from codellama_proxy.routing import selection
from codellama_proxy.routing.cooldown import Cooldowns
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.stored_keys import StoredKeys
from codellama_proxy.store.sqlite.writer import Writer
from codellama_proxy.tokens.counter import Counter
from codellama_proxy.tracking.log import Log
from codellama_proxy.tracking.metrics import Metrics
from codellama_proxy.upstream.pools import Pools, identity_of
from tests.support.builders import deployment
from tests.support.fake_internet import Internet
from tests.support.ledger_fixtures import NOW

T = TypeVar("T")
GPTCACHE = deployment("gptcache")
"""Where an internet has its GPTCache server."""


Use = Callable[["Rig"], Awaitable[None]]


class Play(Protocol):
    """Plays a test between this internet and what the test does, under a setting."""

    def __call__(self, internet: Internet, use: Use, setting: Snapshot | None = None) -> None: ...


class Clock:
    """Stands still but for what is slept; remembers each sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Client:
    """A caller who remembers what it got; it may leave, or stop reading, after so many writes."""

    def __init__(
        self, body: Mapping[str, Any] | bytes, secret: str | None, stops_after: int | None = None
    ) -> None:
        self.begun = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.writes: list[bytes] = []
        self.ended = False
        self.wrote = asyncio.Event()
        self.cache_header = ""
        self.session_id: str | None = None
        self.agent_id: str | None = None
        self._body = body if isinstance(body, bytes) else orjson.dumps(body)
        self._secret = secret
        self._stops_after = stops_after
        self._left: Callable[[], None] | None = None
        self.gone = False

    def credential(self) -> str | None:
        return self._secret

    def cache_control(self) -> str:
        return self.cache_header

    def session(self) -> tuple[str | None, str | None]:
        return self.session_id, self.agent_id

    def hints(self) -> dict[str, str]:
        return {}

    def is_arriving(self) -> bool:
        return False

    def address(self) -> str:
        return "127.0.0.1"

    def whole_body(self, limit: int) -> bytes | None:
        return None

    async def body(self, limit: int, grew: Callable[[int], None]) -> bytes:
        if len(self._body) > limit:
            raise ProxyError("request_too_large", "Too large.")
        return self._body

    def stay(self, left: Callable[[], None]) -> None:
        self._left = left

    def leave(self, task: asyncio.Task[None]) -> None:
        """It goes away, as the web layer tells it."""
        self.gone = True
        if self._left is None:
            task.cancel()
        else:
            self._left()

    async def begin(self, status: int, headers: Mapping[str, str], *, stream: bool = False) -> None:
        assert not self.begun
        if self.gone:
            raise ClientDisconnectedError
        self.begun, self.status, self.headers = True, status, headers

    async def write(self, data: bytes, *, last: bool) -> None:
        assert self.begun
        assert not self.ended
        if self.gone and self._left is not None:
            raise ClientDisconnectedError
        if self._stops_after is not None and len(self.writes) >= self._stops_after:
            raise ClientDisconnectedError
        self.writes.append(data)
        self.ended = last
        self.wrote.set()

    async def answer(self, headers: HeaderLines, body: bytes) -> None:
        await self.begin(200, headers)
        await self.write(body, last=True)

    def is_ready(self) -> bool:
        """Only where `write` would neither wait nor raise."""
        stopped = self._stops_after is not None and len(self.writes) >= self._stops_after
        return not self.gone and not stopped

    def put(self, data: bytes) -> None:
        self.writes.append(data)
        self.wrote.set()

    def chunk_writer(self) -> WriteChunk | None:
        return None

    def request_headers(self) -> dict[str, str]:
        return {}

    @property
    def data(self) -> bytes:
        return b"".join(self.writes)

    @property
    def json(self) -> dict[str, Any]:
        """A plain answer, or an error."""
        assert self.headers["content-length"] == str(len(self.data))
        return orjson.loads(self.data)  # type: ignore[no-any-return]  # JSON

    @property
    def events(self) -> list[Any]:
        """A stream's events; `None` for [DONE]."""
        assert self.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix(b"data: ") for line in self.data.split(b"\n\n") if line]
        return [None if line == b"[DONE]" else orjson.loads(line) for line in lines]

    @property
    def answer_text(self) -> str:
        """The text it was given, in whichever form."""
        if self.status != 200:
            return ""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return str(self.json["choices"][0]["message"]["content"])
        chunks = [event for event in self.events if event and "choices" in event]
        return "".join(c["delta"].get("content") or "" for one in chunks for c in one["choices"])


class Rig:
    """`setting` is read anew by each request, as in the real thing."""

    def __init__(self, setting: Snapshot, internet: Internet, directory: Path) -> None:
        self.setting = setting
        self.internet = internet
        self.clock = Clock()
        self.wall = NOW
        """The wall clock, in seconds since 1970: it moves only when a test moves it."""
        self.time = Time(self.clock, self._date, self.clock.sleep, jitter=lambda: 0.5)
        path = directory / "proxy.db"
        prepare(path)
        self.writer, self.reader = Writer(path), Reader(path)
        self.keys = Keys(StoredKeys(self.writer, self.reader))
        self.ledger = Ledger(self.writer, self.reader, clock=self._date)
        self.pools = Pools(internet.make)
        self.cooldowns = Cooldowns(identity_of, self.clock)
        self.lines = Log(io.BytesIO(), "json")
        metrics = Metrics(lambda name: selection.known_model(self.setting, name))
        self.accounts = Accounting(self.ledger, Counter(directory), self.lines, metrics, self.time)
        walk = AttemptRunner(self.pools, self.cooldowns, self.time, self.accounts.extend)
        self.answers = CacheStorage(directory / "proxy-cache.db", self.clock)
        semantic = SemanticSelector(
            self.answers,
            Embedder(walk, self.accounts, self.time).ask,
            self.time,
            lambda: internet.make(GPTCACHE),
        )
        self.cache_lookup = CacheLookup(self.answers, semantic, self.time)
        self.gateway = Gateway(
            lambda: self.setting, self.keys, walk, self.accounts, self.cache_lookup, self.time, b"seal"
        )
        self.secret = ""

    async def key(self, project: str = "team", **fields: Any) -> str:
        _, secret = await self.keys.create(KeyChange({"key_alias": project, **fields}))
        return secret

    def client(
        self, *, stream: bool = False, stops_after: int | None = None, secret: str | None = "", **body: Any
    ) -> Client:
        messages = [{"role": "user", "content": "hello"}]
        secret = self.secret if secret == "" else secret
        return Client({"messages": messages, "stream": stream, **body}, secret, stops_after)

    def _date(self) -> float:
        return self.wall

    async def ask(self, **body: Any) -> Client:
        """A request, answered."""
        client = self.client(**body)
        await self.gateway.answer("chat/completions", client)
        return client

    async def rows(self) -> list[dict[str, Any]]:
        """Every row, newest first, with all of it, when everything is counted and written."""
        await self.accounts.close()
        rows, _ = await self.ledger.logs(Filters(), 1, 1000)
        return [found for row in rows if (found := await self.ledger.request(row["request_id"]))]

    async def row(self, client: Client | None = None) -> dict[str, Any]:
        """The one row there is."""
        (row,) = await self.rows()
        assert client is None or not client.begun or row["request_id"] == client.headers["x-request-id"]
        return row

    async def check_nothing_is_open(self) -> None:
        assert self.gateway.running == 0
        assert all(body.closed for body in self.internet.bodies)
        entries = [d for model in self.setting.models.values() for d in model.deployments]
        assert all(self.pools.of(entry).users == 0 for entry in entries)
        assert all(row["status"] != "held" for row in await self.rows())
        assert await self.ledger.reconcile() == []

    def systems(self) -> list[Sequence[str]]:
        """The system messages of every upstream body, in order."""
        return [
            [m["content"] for m in one.body["messages"] if m["role"] in ("system", "developer")]
            for one in self.internet.sent
        ]


def run(directory: Path, setting: Snapshot, internet: Internet, use: Callable[[Rig], Awaitable[T]]) -> T:
    """Plays a test in an event loop of its own; afterwards nothing may be left open or held."""

    async def main() -> T:
        rig = Rig(setting, internet, directory)
        rig.writer.start()
        await rig.reader.open()
        await rig.ledger.open()
        await rig.answers.open()
        try:
            rig.secret = await rig.key()
            result = await use(rig)
            await rig.check_nothing_is_open()
            return result
        finally:
            await rig.cache_lookup.close()
            await rig.answers.close()
            await rig.pools.close()
            await rig.ledger.close()
            await rig.reader.close()
            await asyncio.to_thread(rig.writer.close)
            rig.ledger.delete_journal()

    return asyncio.run(main())


def player(directory: Path, usual: Snapshot) -> Play:
    """Under the `usual` setting, if the test names none. The sums must be what the rows say."""

    def play(internet: Internet, use: Use, setting: Snapshot | None = None) -> None:
        async def checked(rig: Rig) -> None:
            await use(rig)
            rows = await rig.rows()
            spend = await rig.ledger.spend((), Filters())
            assert spend["total_requests"] == len(rows)
            assert abs(spend["total_cost_usd"] - sum(row["cost_usd"] or 0 for row in rows)) < 1e-12

        run(directory, usual if setting is None else setting, internet, checked)

    return play
