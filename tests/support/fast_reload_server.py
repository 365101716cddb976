"""The real server, looking at its file without a pause: a storm of reloads need not take all day."""

from __future__ import annotations

import asyncio
import sys

from codellama_proxy.cli.serve import serve as command
from codellama_proxy.cli.serve import settings_of
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.config.settings import environment
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.server.process import serve


async def hardly(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.003))


if __name__ == "__main__":
    settings = settings_of(**command.make_context("serve", sys.argv[2:]).params)
    live = LiveConfig(Source(settings.config, environment, IMPLEMENTED), interval=0.003, sleep=hardly)
    sys.exit(serve(settings, live))
