"""One page of metrics for several processes on one machine: whoever is asked adds up the pages of all.

Each process serves its own page on a Unix socket in a folder that only they can enter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from codellama_proxy.tracking.metrics import Metrics

ANSWER_SECONDS = 1.0
"""How long the page of another process may take; without it the page has the others' values."""
PLAIN = "text/plain"


class SharedMetrics:
    """The metrics of this process and of its siblings."""

    def __init__(self, metrics: Metrics, folder: Path, number: int) -> None:
        """`number`: of this process among its siblings; `folder`: private to them."""
        self._metrics = metrics
        self._folder = folder
        self._own = folder / f"metrics-{number}.sock"
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Serve this process's page to the others."""
        self._own.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, self._own)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The sums of all processes in the format that the `Accept` header asks for, and the content type."""
        others = [path for path in sorted(self._folder.glob("metrics-*.sock")) if path != self._own]
        found = await asyncio.gather(*(_page_at(path) for path in others))
        pages = [self._metrics.page(PLAIN)[0], *(page for page in found if page)]
        encode, content_type = choose_encoder(accept)
        return encode(_Merged(pages)), content_type

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._metrics.page(PLAIN)[0])
        await writer.drain()
        writer.close()


async def _page_at(path: Path) -> bytes:
    """The page of another process; empty if it does not answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


class _Merged(Collector):
    def __init__(self, pages: Sequence[bytes]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        return merged([list(text_string_to_metric_families(page.decode())) for page in self._pages])


def merged(pages: Sequence[Sequence[Metric]]) -> list[Metric]:
    """Counters and histograms are added; of gauges the highest value counts, of times the earliest."""
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for page in pages for family in page):
        one = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        sums = values.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            sums[key] = sample.value if key not in sums else _combined(one, sums[key], sample.value)
    for name, sums in values.items():
        for (sample_name, labels), value in sums.items():
            found[name].add_sample(sample_name, dict(labels), value)
    return list(found.values())


def _combined(family: Metric, first: float, second: float) -> float:
    if family.type != "gauge":
        return first + second
    return min(first, second) if family.name.endswith("_timestamp_seconds") else max(first, second)
