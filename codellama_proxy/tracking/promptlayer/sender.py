"""Delivers what waits in the outbox to PromptLayer: patiently, few at a time, and in nobody's way.

While nothing gets through, one record at a time is tried, at growing intervals: an outage costs the service
and us next to nothing. A record that is put off goes behind those tried less often, so one that can never be
delivered holds up no other; only what the service says it cannot read is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from codellama_proxy import __version__
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Secret
from codellama_proxy.failures.classify import retry_after
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.sqlite.outbox import FARTHEST, Outbox, Outcome, Waiting

DEFAULT_URL = "https://api.promptlayer.com"
PATHS: Mapping[str, str] = {
    "request": "/log-request",
    "score": "/rest/track-score",
    "metadata": "/rest/track-metadata",
}
BATCH = 8
IDLE = 0.5
"""Seconds between two looks into an empty outbox."""
TIMEOUT = 10.0
"""Seconds for one record; PromptLayer takes tenths of one."""
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 300.0
COMPLAIN_EVERY = 60.0
MOST_ANSWER = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SendResult:
    """What the service said to one record."""

    status: int | None
    """`None`: nothing at all."""
    service_id: int | None = None
    retry_after: float | None = None
    why: str = ""

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def unreadable(record: Waiting, answer: SendResult) -> bool:
    """Whether it is no use to send this again. A wrong key or address may be mended; a wrong record may not."""
    return answer.status in (400, 413, 422) or (answer.status == 404 and record.kind != "request")


def backoff(tries: int, longest: float, jitter: float) -> float:
    """Seconds to wait after so many failures: doubling, somewhere in the upper half."""
    return float(min(longest, 2.0 ** min(tries, 30)) * (0.5 + jitter / 2))


class PromptLayerSender:
    """The sender. `round` sends what is due; `run` does so until `stop`."""

    def __init__(
        self,
        outbox: Outbox,
        wire: httpx2.AsyncBaseTransport,
        key: Callable[[], Secret | None],
        time: Time,
        *,
        url: str = DEFAULT_URL,
    ) -> None:
        self._outbox = outbox
        self._wire = wire
        self._key = key
        self._time = time
        self._url = url.rstrip("/")
        self._failures = 0
        """Rounds in a row in which nothing got through."""
        self._complained_at = float("-inf")
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Records the service could not read, and scores of requests it never got."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self, seconds: float) -> None:
        """Deliver what waits, for so long at most; the rest stays for the next start."""
        self._stopping.set()
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._task, seconds)
        except TimeoutError:
            log.info("records for PromptLayer are left for the next start")
        await self._wire.aclose()

    async def _run(self) -> None:
        while True:
            pause = await self._safe_round()
            if not pause:
                continue
            if self._stopping.is_set():
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _safe_round(self) -> float:
        try:
            return await self.round()
        except StoreUnavailableError:
            return IDLE  # the store itself says what is wrong with it
        except Exception:  # tracking must not end because of one record
            log.exception("records could not be delivered")
            return LONGEST_PAUSE

    async def round(self) -> float:
        """Send what is due; seconds until it is worth looking again, 0 for at once."""
        key = self._key()
        if key is None:
            return IDLE
        records = await self._outbox.due(self._time.wall(), 1 if self._failures else BATCH)
        if not records:
            return IDLE
        answers = await asyncio.gather(*(self._deliver(record, key) for record in records))
        pairs = list(zip(records, answers, strict=True))
        await self._outbox.note([self._outcome(*pair) for pair in pairs], self._time.wall())
        return self._pause(pairs)

    def _outcome(self, record: Waiting, answer: SendResult) -> Outcome:
        if answer.taken:
            return Outcome(record, service_id=answer.service_id if record.kind == "request" else None)
        self._complain(answer)
        if unreadable(record, answer):
            self.dropped += 1
            return Outcome(record)
        own = backoff(record.tries, LONGEST_WAIT, self._time.jitter())
        asked = min(answer.retry_after or 0.0, FARTHEST)
        return Outcome(record, next_at=self._time.wall() + max(own, asked))

    def _pause(self, pairs: Sequence[tuple[Waiting, SendResult]]) -> float:
        """None while anything gets through, or while it is the records that are at fault."""
        if any(answer.taken or unreadable(record, answer) for record, answer in pairs):
            self._failures = 0
            return 0.0
        self._failures += 1
        own = backoff(self._failures - 1, LONGEST_PAUSE, self._time.jitter())
        asked = max(answer.retry_after or 0.0 for _, answer in pairs)
        return min(max(own, asked), LONGEST_WAIT)

    async def _deliver(self, record: Waiting, key: Secret) -> SendResult:
        if record.kind == "request":
            return await self._send(record, record.body, key)
        if record.service_id is None:
            return SendResult(404, why="its request was given up")
        addressed = orjson.loads(record.body) | {"request_id": record.service_id, "api_key": key.reveal()}
        return await self._send(record, orjson.dumps(addressed), key)

    async def _send(self, record: Waiting, body: bytes, key: Secret) -> SendResult:
        headers = {
            "content-type": "application/json",
            "x-api-key": key.reveal(),
            "user-agent": f"codellama-proxy/{__version__}",
            "accept-encoding": "identity",
        }
        url = self._url + PATHS[record.kind]
        extensions = {"timeout": {"connect": TIMEOUT}}
        request = httpx2.Request("POST", url, headers=headers, content=body, extensions=extensions)
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await self._wire.handle_async_request(request)
                try:
                    return _read(response, await _body(response), self._time.wall())
                finally:
                    await response.aclose()
        except TimeoutError:
            return SendResult(None, why="timeout")
        except httpx2.TransportError as error:
            return SendResult(None, why=type(error).__name__)

    def _complain(self, answer: SendResult) -> None:
        """Once a minute is enough; never the service's words, which may quote ours."""
        now = self._time.monotonic()
        if now - self._complained_at < COMPLAIN_EVERY:
            return
        self._complained_at = now
        reason = answer.why or f"status {answer.status}"
        log.warning("PromptLayer does not take records: %s; requests are not affected", reason)


def _read(response: httpx2.Response, body: bytes, now: float) -> SendResult:
    status = response.status_code
    if 200 <= status < 300:
        return SendResult(status, _id(body))
    return SendResult(status, retry_after=retry_after(response.headers, now))


def _id(body: bytes) -> int | None:
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    number = found.get("id") if isinstance(found, dict) else None
    return number if type(number) is int and 0 <= number < 2**63 else None


async def _body(response: httpx2.Response) -> bytes:
    """An answer's beginning: only its id is of use."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.stream:  # type: ignore[union-attr]  # always an async stream here
        pieces.append(piece)
        size += len(piece)
        if size > MOST_ANSWER:
            break
    return b"".join(pieces)
