#!/usr/bin/env python3
"""serve_gptcache.py PORT DIRECTORY: a real GPTCache server, started so that it needs no network and no model.

Runs in an environment of its own with `gptcache==0.1.44 openai==0.28.1 fastapi uvicorn` (docs/cache.md). Its own
start command wants to download a model and does not work on Python 3.11; this initialises the same application
with exact matching instead, and writes what it holds to disk every minute and at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# GPTCache installs what it misses with the first `pip` on the PATH, which must not be anybody else's.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
os.environ.setdefault("PIP_NO_INDEX", "1")

FLUSH_EVERY = 60.0


def main(port: int, directory: str) -> None:
    import uvicorn  # noqa: PLC0415 - after the PATH is set
    from gptcache import cache  # noqa: PLC0415
    from gptcache.manager.factory import manager_factory  # noqa: PLC0415
    from gptcache.processor.pre import get_prompt  # noqa: PLC0415
    from gptcache_server import server  # noqa: PLC0415

    Path(directory).mkdir(parents=True, exist_ok=True)
    cache.init(pre_embedding_func=get_prompt, data_manager=manager_factory("map", data_dir=directory))
    server.cache_dir = directory

    async def flush() -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            cache.flush()

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(flush())
        try:
            yield
        finally:
            task.cancel()
            cache.flush()

    server.app.router.lifespan_context = lifespan
    uvicorn.run(server.app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(int(sys.argv[1]), sys.argv[2])
