#!/usr/bin/env python3
"""Exit code 0 if the proxy on this machine is ready to serve: what a container's health check runs."""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT = 4.0


def main() -> int:
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(os.environ.get("PROXY_PORT") or 4000), timeout=TIMEOUT
    )
    try:
        connection.request("GET", "/health/readiness")
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
