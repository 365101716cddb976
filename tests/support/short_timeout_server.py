"""`python -m tests.support.short_timeout_server serve ...`: the real server, with short timeouts for clients."""

from __future__ import annotations

import sys

from codellama_proxy.cli.serve import serve as command
from codellama_proxy.cli.serve import settings_of
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.config.settings import environment
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.server.process import serve
from codellama_proxy.web.connection import ClientTimeouts

PATIENCE = ClientTimeouts(head=0.6, body=0.8, send=1.0, heartbeat=0.3)

if __name__ == "__main__":
    settings = settings_of(**command.make_context("serve", sys.argv[2:]).params)
    sys.exit(serve(settings, LiveConfig(Source(settings.config, environment, IMPLEMENTED)), PATIENCE))
