"""How long the dashboard's pages take over a million requests.

    python -m bench.dashboard [--rows 1000000] [--rounds 15]

One server over a month of requests (`bench.dashboard_rows`), asked for one page after another by the operator and by a
key holder. Times are those of whole HTTP requests, in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from pathlib import Path

import httpx2

from bench.dashboard_rows import ROWS, fill
from bench.processes import SERVER_CORE, free_port, running
from codellama_proxy.core.clock import iso
from codellama_proxy.gateway.progress import Progress

MAX_MS = 150.0
MASTER_KEY = "master-key-of-the-benchmark-0123"
CONFIG = "models:\n" + "".join(f"  - {{name: model-{n}, provider: mock}}\n" for n in range(8))
DAY = 86_400.0
FORM = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}


def pages(now: float) -> tuple[str, ...]:
    weeks_ago = f"requests?start={iso(now - 22 * DAY)}&end={iso(now - 21 * DAY)}"
    return (
        *(
            "overview",
            "overview?range=30d",
            "overview?by=key",
            "overview?by=key&range=30d",
            "overview?by=user&range=30d",
            "models",
            "keys",
            "budgets",
            "connect",
            "config",
        ),
        *("requests", "requests?project=project-3", "requests?model=model-7", "requests?model=none"),
        *(
            "requests?status=error",
            "requests?user=user-3-0",
            "requests?cache=hit",
            "requests?code=418",
            weeks_ago,
        ),
        *("requests?slow=120", "requests?project=project-0&slow=120", "requests?status=error&slow=120"),
        f"requests/req_{ROWS // 3:024x}",
        "playground",
    )


@contextlib.contextmanager
def server(directory: Path, database: str | None = None) -> Iterator[tuple[str, int]]:
    """The address of a server over the database in a directory, or another one; and its process."""
    (directory / "proxy.yaml").write_text(CONFIG)
    port = free_port()
    command = [sys.executable, "-m", "codellama_proxy", "serve", "--port", str(port)]
    command += ["--config", str(directory / "proxy.yaml")]
    env = {"PROXY_MASTER_KEY": MASTER_KEY, "PROXY_DATABASE": database or str(directory / "proxy.db")}
    url = f"http://127.0.0.1:{port}"
    with running(command, SERVER_CORE, lambda: is_ready(url), env=env, log=directory / "log") as found:
        yield url, found.pid


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/readiness").status_code == 200
    except httpx2.TransportError:
        return False


def timed(client: httpx2.Client, path: str, rounds: int) -> list[float]:
    """Milliseconds of each round, sorted."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer = client.get(f"/ui/{path}")
        took.append((time.perf_counter() - start) * 1000)
        assert answer.status_code in (200, 404), (path, answer.status_code)
        time.sleep(0.05)  # below the limit of pages a second
    return sorted(took)


def unwatched_note() -> float:
    """Nanoseconds that a request pays for live rows while no page is open."""
    progress = Progress(time.monotonic)
    loops = 1_000_000
    return min(timeit.repeat("p.watched", globals={"p": progress}, number=loops, repeat=5)) / loops * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        secrets = fill(directory / "proxy.db", given.rows)
        with server(directory) as (url, _):
            for who, secret in (("operator", MASTER_KEY), ("key holder", secrets[0])):
                client = httpx2.Client(base_url=url, timeout=60)
                client.post("/ui/sign-in", content=f"secret={secret}", headers=FORM)
                print(f"{who:60} {'best':>8} {'median':>8} {'p95':>8}")
                for path in pages(time.time()):
                    took = timed(client, path, given.rounds)
                    p95 = took[min(round(len(took) * 0.95), len(took) - 1)]
                    late = "  over the goal" if statistics.median(took) > MAX_MS else ""
                    print(f"  {path[:58]:58} {took[0]:8.1f} {statistics.median(took):8.1f} {p95:8.1f}{late}")
    print(f"live rows cost a request {unwatched_note():.0f} ns while no page is open")


if __name__ == "__main__":
    main()
