"""Sends the records in the outbox to PromptLayer, a few at a time.

While every attempt fails, one record at a time is tried, with exponential backoff, so that an outage costs little.
A record that failed goes behind those tried less often, so that it does not block them. Only a record that
PromptLayer rejects as invalid is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Secret
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.failures.classify import retry_after
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import MAX_DELAY_SECONDS, Outbox, Outcome, Waiting
from codellama_proxy.upstream.http import Response, Transport, TransportError

DEFAULT_URL = "https://api.promptlayer.com"
PATHS: Mapping[str, str] = {
    "request": "/log-request",
    "score": "/rest/track-score",
    "metadata": "/rest/track-metadata",
}
BATCH_SIZE = 8
POLL_SECONDS = 0.5
"""Between two reads of an empty outbox."""
TIMEOUT_SECONDS = 10.0
"""For one record; PromptLayer usually answers within a second."""
MAX_PAUSE_SECONDS = 60.0
"""Between two rounds while every attempt fails."""
MAX_RETRY_SECONDS = 300.0
"""Until a record is tried again."""
WARNING_INTERVAL_SECONDS = 60.0
MAX_RESPONSE_BYTES = 1 << 20

log = logging.getLogger(__name__)


class SendResult(NamedTuple):
    """PromptLayer's response to one record."""

    status: int | None
    """`None`: no response."""
    service_id: int | None = None
    retry_after: float | None = None
    reason: str = ""

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def is_rejected(record: Waiting, result: SendResult) -> bool:
    """Whether sending the record again is useless. A wrong key or URL may be corrected; an invalid record may not."""
    return result.status in (400, 413, 422) or (result.status == 404 and record.kind != "request")


def backoff(tries: int, maximum: float, jitter: float) -> float:
    """Seconds to wait after so many failures: a random part of the upper half of 2**tries. `jitter` is in [0, 1)."""
    return float(min(maximum, 2.0 ** min(tries, 30)) * (0.5 + jitter / 2))


class PromptLayerSender:
    """Sends records in the background from `start` to `stop`."""

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        key: Callable[[], Secret | None],
        time: Time,
        *,
        url: str = DEFAULT_URL,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._key = key
        self._time = time
        self._url = url.rstrip("/")
        self._failures = 0
        """Consecutive rounds in which every attempt failed."""
        self._warned_at = float("-inf")
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Records that PromptLayer rejected, and scores of requests that were dropped."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self, seconds: float) -> None:
        """Send what is due, for at most so many seconds; the rest remains in the outbox."""
        self._stopping.set()
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._task, seconds)
        except TimeoutError:
            log.info("records for PromptLayer remain in the outbox until the next start")
        await self._transport.aclose()

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
            return POLL_SECONDS  # the store logs its own failures
        except Exception:  # one record must not end the task
            log.exception("records could not be delivered")
            return MAX_PAUSE_SECONDS

    async def round(self) -> float:
        """Send what is due. Returns the seconds until the next round, 0 for at once."""
        key = self._key()
        if key is None:
            return POLL_SECONDS
        records = await self._outbox.due(self._time.wall(), 1 if self._failures else BATCH_SIZE)
        if not records:
            return POLL_SECONDS
        results = await asyncio.gather(*(self._deliver(record, key) for record in records))
        pairs = list(zip(records, results, strict=True))
        await self._outbox.note([self._outcome(*pair) for pair in pairs], self._time.wall())
        return self._pause(pairs)

    def _outcome(self, record: Waiting, result: SendResult) -> Outcome:
        if result.accepted:
            return Outcome(record, service_id=result.service_id if record.kind == "request" else None)
        self._warn(result)
        if is_rejected(record, result):
            self.dropped += 1
            return Outcome(record)
        own = backoff(record.tries, MAX_RETRY_SECONDS, self._time.jitter())
        asked = min(result.retry_after or 0.0, MAX_DELAY_SECONDS)
        return Outcome(record, next_at=self._time.wall() + max(own, asked))

    def _pause(self, pairs: Sequence[tuple[Waiting, SendResult]]) -> float:
        """Seconds until the next round: 0 unless every attempt failed for a reason other than its record."""
        if any(result.accepted or is_rejected(record, result) for record, result in pairs):
            self._failures = 0
            return 0.0
        self._failures += 1
        own = backoff(self._failures - 1, MAX_PAUSE_SECONDS, self._time.jitter())
        asked = max(result.retry_after or 0.0 for _, result in pairs)
        return min(max(own, asked), MAX_RETRY_SECONDS)

    async def _deliver(self, record: Waiting, key: Secret) -> SendResult:
        if record.kind == "request":
            return await self._send(record, record.body, key)
        if record.service_id is None:
            return SendResult(404, reason="its request was dropped")
        addressed = orjson.loads(record.body) | {"request_id": record.service_id, "api_key": key.reveal()}
        return await self._send(record, orjson.dumps(addressed), key)

    async def _send(self, record: Waiting, body: bytes, key: Secret) -> SendResult:
        headers = {"content-type": "application/json", "x-api-key": key.reveal()}
        request = HttpRequest(self._url + PATHS[record.kind], headers, body)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                response = await self._transport.send(request, TIMEOUT_SECONDS)
                try:
                    return _read(response, await _body(response), self._time.wall())
                finally:
                    await response.body.aclose()
        except TimeoutError:
            return SendResult(None, reason="timeout")
        except TransportError as error:
            return SendResult(None, reason=error.reason)

    def _warn(self, result: SendResult) -> None:
        """At most once a minute. Never logs PromptLayer's text, which may quote the record."""
        now = self._time.monotonic()
        if now - self._warned_at < WARNING_INTERVAL_SECONDS:
            return
        self._warned_at = now
        reason = result.reason or f"status {result.status}"
        log.warning("PromptLayer does not accept records: %s; requests are not affected", reason)


def _read(response: Response, body: bytes, now: float) -> SendResult:
    status = response.status
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


async def _body(response: Response) -> bytes:
    """The beginning of the response: only its id is needed."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.body:
        pieces.append(piece)
        size += len(piece)
        if size > MAX_RESPONSE_BYTES:
            break
    return b"".join(pieces)
