"""`python -m tests.support.promptlayer --journal FILE --key pl_...`: prints its port as the first line, then serves.

`POST /behave {status, delay, retry_after}` changes how it answers from then on; `{}` makes it good again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.promptlayer import rules

CHECKS = {
    "/rest/track-score": rules.track_score,
    "/rest/track-metadata": rules.track_metadata,
}


class PromptLayer:
    def __init__(self, journal: Path, key: str) -> None:
        self._file = journal.open("a", encoding="utf-8")
        self._key = key
        self._behaviour: dict[str, Any] = {}
        self._logged = 0

    def write(self, event: str, **facts: Any) -> None:
        self._file.write(json.dumps({"event": event, **facts}) + "\n")
        self._file.flush()

    async def behave(self, request: Request) -> Response:
        self._behaviour = await request.json()
        return JSONResponse({})

    async def take(self, request: Request) -> Response:
        headers = {k: v for k, v in request.headers.items() if v != self._key}
        raw = await request.body()
        path = request.url.path
        self.write("request", path=path, headers=headers, size=len(raw))
        now = self._behaviour
        if now.get("delay"):
            await asyncio.sleep(now["delay"])
        if request.headers.get("x-api-key") != self._key:
            return JSONResponse({"success": False, "message": "bad key"}, 401)
        if now.get("status"):
            wait = {"retry-after": str(now["retry_after"])} if "retry_after" in now else {}
            return JSONResponse({"message": "scripted"}, now["status"], headers=wait)
        return self._judged(path, json.loads(raw))

    def _judged(self, path: str, body: dict[str, Any]) -> Response:
        if path == "/log-request":
            wrong = rules.log_request(body)
        else:
            wrong = CHECKS[path](body, self._logged)
            if body.pop("api_key", None) != self._key:
                wrong.append("api_key is wrong")
        self._logged += path == "/log-request" and not wrong
        self.write("refused" if wrong else "taken", path=path, body=body, wrong=wrong, id=self._logged)
        if wrong:
            return JSONResponse({"detail": wrong}, 422)
        if path != "/log-request":
            return JSONResponse({"success": True})
        answer = {"id": self._logged, "prompt_version": None, "status": "SUCCESS"}
        return JSONResponse({**answer, "error_type": None, "error_message": None}, 201)


def main(journal: Path, key: str, port: int) -> None:
    one = PromptLayer(journal, key)
    routes = [Route(path, one.take, methods=["POST"]) for path in ("/log-request", *CHECKS)]
    app = Starlette(routes=[*routes, Route("/behave", one.behave, methods=["POST"])])
    sock = socket.create_server(("127.0.0.1", port))
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    asyncio.run(uvicorn.Server(config).serve(sockets=[sock]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.support.promptlayer", description=__doc__)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--port", type=int, default=0)
    main(**vars(parser.parse_args()))
