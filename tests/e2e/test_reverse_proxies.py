"""Behind nginx and Caddy, configured as docs/operations.md says: no byte of one client's becomes another's request."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, end, free_port, until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, Wire, request
from tests.support.upstream.process import Upstream

pytestmark = pytest.mark.filterwarnings("default:.*nothing is proved behind")

CHAT = "/v1/chat/completions"
NAME = "llm.example.com"
LIMIT = 2_000_000
GUIDE = (ROOT / "docs" / "operations.md").read_text()
OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "HTTP2_Settings": "AAEAAEAAAAIAAAAA"}


def documented(program: str) -> str:
    """The block of the guide."""
    found = re.search(rf"^{program}:\n\n```\n(.*?)```\n", GUIDE, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert "127.0.0.1:4000" in found[1]
    return found[1]


def caddy(place: Path, port: int, proxy: Proxy) -> list[str]:
    options = (
        f"admin off\nhttps_port {port}\ndefault_bind 127.0.0.1\nauto_https disable_redirects\nlocal_certs"
    )
    options += "\nskip_install_trust\nservers {\nprotocols h1 h2\n}"
    site = documented("Caddy").replace("127.0.0.1:4000", f"127.0.0.1:{proxy.port}")
    (place / "Caddyfile").write_text(f"{{\n{options}\nstorage file_system {place}/storage\n}}\n{site}")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(place / "Caddyfile")]


def nginx(place: Path, port: int, proxy: Proxy) -> list[str]:
    return _nginx(place, port, documented("nginx").replace("127.0.0.1:4000", f"127.0.0.1:{proxy.port}"))


def nginx_that_keeps_connections(place: Path, port: int, proxy: Proxy) -> list[str]:
    pool = f"upstream kept {{ server 127.0.0.1:{proxy.port}; keepalive 1; }}\n"
    return _nginx(place, port, pool + documented("nginx").replace("127.0.0.1:4000", "kept"))


def _nginx(place: Path, port: int, server: str) -> list[str]:
    key, certificate = place / "key.pem", place / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    paths = ["-subj", f"/CN={NAME}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *paths], check=True, capture_output=True, timeout=20)
    for told, here in {
        "listen 443": f"listen 127.0.0.1:{port}",
        f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(certificate),
        f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(key),
    }.items():
        assert told in server
        server = server.replace(told, here)
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {place}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{server}}}\n"
    )
    return ["nginx", "-e", "stderr", "-p", str(place), "-c", str(place / "nginx.conf")]


FRONTS: list[Callable[[Path, int, Proxy], list[str]]] = [caddy, nginx, nginx_that_keeps_connections]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config(upstream_process.model("plain"), server={"max_body": LIMIT}))


class Front:
    """A running reverse proxy."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._tls.set_alpn_protocols(["http/1.1"])

    @contextlib.contextmanager
    def connection(self) -> Iterator[Wire]:
        with Wire(self._port) as wire:
            wire.socket = self._tls.wrap_socket(wire.socket, server_hostname=NAME)
            yield wire

    def ask(self, data: bytes) -> Reply:
        with self.connection() as wire:
            return wire.send(data).reply()


@pytest.fixture(scope="module", params=FRONTS, ids=lambda front: front.__name__)
def front(
    request: pytest.FixtureRequest, served: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    program = request.param.__name__.partition("_")[0]
    for needed in (program, *(("openssl",) if program == "nginx" else ())):
        if shutil.which(needed) is None:
            warnings.warn(f"{needed} is not installed: nothing is proved behind {program}", stacklevel=1)
            pytest.skip(f"{needed} is not installed")
    place, port = tmp_path_factory.mktemp(program), free_port()
    command = request.param(place, port, served)
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(place)}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=place)
        found = Front(port)

        def answers() -> bool:
            assert process.poll() is None, (place / "log").read_text()
            with contextlib.suppress(OSError):
                return found.ask(sent("/health/liveliness", method="GET")).status == 200
            return False

        try:
            until(answers, f"{program} serves", within=60)
            yield found
        finally:
            process.terminate()
            end(process)


def sent(path: str, body: bytes = b"", *, method: str = "POST", **headers: str) -> bytes:
    return request(path, body, method=method, **{"host": NAME, **headers})


def chat(content: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


def asked(upstream: Upstream) -> list[str]:
    return [body["messages"][-1]["content"] for body in upstream.journal.bodies()]


def chunked(body: bytes, trailer: bytes = b"") -> bytes:
    return b"%x;x=y\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)


CODED = {"content-length": "", "transfer-encoding": "chunked"}


@pytest.mark.parametrize("offer", [{}, OFFER, {"connection": "upgrade", "upgrade": "websocket"}])
def test_bodies_pass_through_the_reverse_proxy(
    front: Front, served: Proxy, upstream: Upstream, offer: dict[str, str]
) -> None:
    for framing, body in (({}, chat("plain")), (CODED, chunked(chat("plain"), b"X-Sum: 1\r\n"))):
        data = sent(CHAT, body, **served.auth, **offer, **framing)
        assert front.ask(data).status == 200
    assert asked(upstream) == ["plain", "plain"]


def test_a_request_smuggled_in_a_body_is_not_executed(
    front: Front, served: Proxy, upstream: Upstream
) -> None:
    hidden = request(CHAT, chat("hidden"), **served.auth)
    headers = {**OFFER, "authorization": "Bearer sk-nobody"}
    for number in range(4):
        for framing, body in (({}, hidden), (CODED, chunked(hidden))):
            assert front.ask(sent(CHAT, body, **headers, **framing)).status in (400, 401)
            answer = front.ask(sent(CHAT, chat(f"own {number}"), **served.auth))
            assert answer.status == 200
    assert sorted(set(asked(upstream))) == [f"own {number}" for number in range(4)]
    assert len(asked(upstream)) == 8


def test_pipelined_requests_keep_their_bodies(front: Front, served: Proxy, upstream: Upstream) -> None:
    with front.connection() as wire:
        wire.send(sent(CHAT, chat("one"), **served.auth) + sent(CHAT, chat("two"), **served.auth))
        first = read_one(wire.socket)
        rest = read_one(wire.socket)
    assert (first, rest) == (200, 200)
    assert asked(upstream) == ["one", "two"]


def read_one(connection: socket.socket) -> int:
    """The status of one answer, read byte by byte so that the next one stays where it is."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    found = re.search(rb"(?i)content-length: (\d+)", head)
    assert found is not None, head
    left = int(found[1])
    while left:
        left -= len(connection.recv(left))
    return int(head.split()[1])


def test_a_too_large_request_gets_its_413(front: Front, served: Proxy) -> None:
    answer = front.ask(sent(CHAT, b" " * (LIMIT + 500_000), **served.auth))
    assert answer.status == 413
    assert answer.error()["code"] == "request_too_large"


def test_a_stream_is_not_buffered(front: Front, served: Proxy) -> None:
    body = json.dumps({"stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    with front.connection() as wire:
        lines = list(wire.send(sent(CHAT, body, **served.auth)).lines())
    assert lines[-2:] == [b"data: [DONE]\n", b"\n"]
