"""The way to upstreams: through a real proxy, to a real TLS server whose authority only a bundle knows."""

import asyncio
import base64
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.config.diff import difference
from codellama_proxy.config.load import examine, load
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.core.masking import mask_for, mask_of
from codellama_proxy.core.snapshot import Bundle, Egress, Secret, Snapshot
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.error_body import UpstreamError
from codellama_proxy.upstream.http import Transport, TransportError
from codellama_proxy.upstream.pools import Pools, Service, identity_of
from codellama_proxy.upstream.transport import HttpTransport
from tests.support.cases import each
from tests.support.forwarding import ForwardProxy, Origin, certified, listening
from tests.support.processes import free_port

HOST = "llm.internal"
USER = "http://corp-user:corp%40pass-word@127.0.0.1:{}"
AUTHORIZATION = "Basic " + base64.b64encode(b"corp-user:corp@pass-word").decode()
KEY = {"authorization": "Bearer sk-upstream", "content-type": "text/plain"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, Path]]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return certified(tmp_path_factory.mktemp("authority"), HOST)


@pytest.fixture
def bundle(authority: tuple[Path, tuple[Path, Path]]) -> Bundle:
    return Bundle(str(authority[0]), authority[0].read_text())


async def post(wire: Transport, url: str) -> None:
    response = await wire.send(HttpRequest(url, KEY, b"hi"), 5.0)
    assert (response.status, [piece async for piece in response.body]) == (200, [b"ok"])
    await response.body.aclose()


def posted(url: str, egress: Egress, times: int = 1) -> None:
    async def main() -> None:
        async with aclosing(HttpTransport(egress)) as wire:
            for _ in range(times):
                await post(wire, url)

    asyncio.run(asyncio.wait_for(main(), 60))


def refused(url: str, egress: Egress) -> Any:
    """The failure that it is."""
    with pytest.raises(TransportError) as caught:
        posted(url, egress)
    return caught.value.failure


# --- over the wire -------------------------------------------------------------------------------------------


def test_https_uses_a_reused_tunnel(authority: tuple[Path, tuple[Path, Path]], bundle: Bundle) -> None:
    origin = Origin(authority[1])
    proxy = ForwardProxy(origin.port)
    with listening(origin, proxy):
        posted(f"https://{HOST}/v1/chat", Egress(Secret(USER.format(proxy.port)), bundle), times=3)
    (connect,) = proxy.seen
    assert connect.line == f"CONNECT {HOST}:443 HTTP/1.1"
    assert connect.headers["proxy-authorization"] == AUTHORIZATION
    assert "sk-upstream" not in str(connect.headers), "the proxy is told nothing of what is inside"
    assert [one.line for one in origin.seen] == ["POST /v1/chat HTTP/1.1"] * 3
    assert all("proxy-authorization" not in one.headers for one in origin.seen)
    assert origin.seen[0].headers["authorization"] == "Bearer sk-upstream"


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("through", [False, True])
def test_a_tls_connection_closed_while_idle_fails_no_request(
    authority: tuple[Path, tuple[Path, Path]], bundle: Bundle, through: bool, noticed: bool
) -> None:
    origin = Origin(authority[1], closes=True)
    proxy = ForwardProxy(origin.port)
    way = Secret(f"http://127.0.0.1:{proxy.port}")
    there = f"https://{HOST}/v1" if through else f"https://localhost:{origin.port}/v1"

    async def main() -> None:
        async with aclosing(HttpTransport(Egress(way if through else None, bundle))) as wire:
            for _ in range(3):
                origin.closed.clear()
                await post(wire, there)
                assert await asyncio.to_thread(origin.closed.wait, 30)
                if noticed:
                    await asyncio.sleep(0.02)

    with listening(origin, proxy):
        asyncio.run(asyncio.wait_for(main(), 60))
    assert len(origin.seen) == 3


def test_http_uses_the_absolute_url() -> None:
    origin = Origin()
    proxy = ForwardProxy(origin.port)
    with listening(origin, proxy):
        posted(f"http://{HOST}:18080/v1/chat", Egress(Secret(USER.format(proxy.port))))
    (asked,) = proxy.seen
    assert asked.line == f"POST http://{HOST}:18080/v1/chat HTTP/1.1"
    assert asked.headers["proxy-authorization"] == AUTHORIZATION
    assert (asked.headers["host"], asked.headers["authorization"]) == (f"{HOST}:18080", "Bearer sk-upstream")
    assert len(origin.seen) == 1


def test_loopback_uses_the_proxy() -> None:
    origin = Origin()
    proxy = ForwardProxy(origin.port)
    with listening(origin, proxy):
        posted(f"http://127.0.0.1:{origin.port}/v1", Egress(Secret(f"http://127.0.0.1:{proxy.port}")))
    assert len(proxy.seen) == 1


def test_an_untrusted_certificate_is_refused(
    authority: tuple[Path, tuple[Path, Path]], bundle: Bundle
) -> None:
    origin = Origin(authority[1])
    proxy = ForwardProxy(origin.port)
    way = Secret(f"http://127.0.0.1:{proxy.port}")
    with listening(origin, proxy):
        failure = refused(f"https://{HOST}/v1", Egress(way))
        assert (failure.cls, failure.sent) == ("transient", False)
        assert not refused("https://other.internal/v1", Egress(way, bundle)).sent, "it is for another host"
        assert origin.seen == []
        posted(f"https://{HOST}/v1", Egress(way, bundle))


@pytest.mark.parametrize("status", [407, 403, 502])
def test_a_refused_tunnel_is_an_unreachable_upstream(status: int) -> None:
    origin = Origin()
    proxy = ForwardProxy(origin.port, refuses=status)
    with listening(origin, proxy):
        failure = refused(f"https://{HOST}/v1", Egress(Secret(USER.format(proxy.port))))
    assert (failure.cls, failure.reason, failure.sent) == ("transient", "proxy", False)
    assert len(proxy.seen) == 1
    assert origin.seen == []


def test_an_unreachable_proxy_is_an_unreachable_upstream() -> None:
    failure = refused(f"http://{HOST}/v1", Egress(Secret(USER.format(free_port()))))
    assert (failure.cls, failure.sent) == ("transient", False)
    assert "corp" not in failure.message


def test_a_407_is_a_credential_failure() -> None:
    assert failures.of_status(407, {}, UpstreamError(), 0.0).cls == "credential"


def test_proxy_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    origin = Origin()
    with listening(origin):
        posted(f"http://127.0.0.1:{origin.port}/v1", Egress())
    assert len(origin.seen) == 1


def test_services_use_the_current_egress_settings() -> None:
    origin = Origin()
    proxy = ForwardProxy(origin.port)
    ways = [Egress(), Egress(Secret(f"http://127.0.0.1:{proxy.port}")), Egress()]

    async def main() -> None:
        async with aclosing(Service(lambda: ways[0])) as service:
            while ways:
                await post(service, f"http://127.0.0.1:{origin.port}/v1")
                del ways[0]

    with listening(origin, proxy):
        asyncio.run(asyncio.wait_for(main(), 60))
    assert (len(origin.seen), len(proxy.seen)) == (3, 1)


# --- in the file ---------------------------------------------------------------------------------------------

ENTRY = """models:
- {name: a, provider: openai, api_key: sk-own-secret-key%s}
- {name: b, provider: openai, api_key: k}
"""


def loaded(more: str = "", entry: str = "", **environ: str) -> Snapshot:
    return load((ENTRY % entry + more).encode(), environ, implemented=frozenset({"openai"}))


def problems(more: str = "", entry: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(more, entry)
    return [str(problem) for problem in caught.value.errors]


def ways(snapshot: Snapshot) -> list[str | None]:
    found = (model.deployments[0].proxy for model in snapshot.models.values())
    return [None if proxy is None else proxy.reveal() for proxy in found]


def test_entries_use_egress_proxy_unless_they_set_their_own() -> None:
    assert ways(loaded()) == [None, None]
    general = "egress: {proxy: 'http://p:1'}\n"
    assert ways(loaded(general)) == ["http://p:1", "http://p:1"]
    assert ways(loaded(general, ", proxy: false")) == [None, "http://p:1"]
    assert ways(loaded(general, ", proxy: 'http://u:pw@q:2/'")) == ["http://u:pw@q:2", "http://p:1"]
    assert ways(loaded("egress: {proxy: false}\n", ", proxy: 'http://q:2'")) == ["http://q:2", None]
    assert loaded(general).egress.proxy == Secret("http://p:1")
    assert loaded("egress: false\n").egress == Egress()


def test_a_proxy_variable_is_used_if_the_file_refers_to_it() -> None:
    environ = {"HTTPS_PROXY": "http://env:3128"}
    assert ways(loaded(**environ)) == [None, None]
    assert ways(loaded("egress: {proxy: '${HTTPS_PROXY}'}\n", **environ)) == ["http://env:3128"] * 2
    assert ways(loaded("egress: {proxy: '${HTTPS_PROXY:-}'}\n")) == [None, None]


@each(
    "url",
    [
        "socks5://p:1",
        "https://p:1",
        "p:3128",
        "http://",
        "http://p:0",
        "http://p:1/x",
        "http://p q:1",
        "seven",
    ],
)
def test_an_invalid_proxy_is_an_error_with_position_that_does_not_repeat_it(url: str) -> None:
    reported = problems(f"egress: {{proxy: '{url}'}}\n", f", proxy: '{url}'")
    assert [line.split(": ")[0] for line in reported] == ["proxy.yaml:2:66", "proxy.yaml:4:17"]
    assert all(
        url not in line.replace("http://proxy.example", "").replace("http:// only", "") for line in reported
    )


def test_a_ca_bundle_is_read_with_the_file(authority: tuple[Path, tuple[Path, Path]], tmp_path: Path) -> None:
    path = authority[0]
    snapshot = loaded(f"egress: {{ca_bundle: '{path}'}}\n")
    assert snapshot.egress.ca_bundle == Bundle(str(path), path.read_text())
    assert snapshot.models["a"].deployments[0].ca_bundle == snapshot.egress.ca_bundle
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    prose = tmp_path / "prose.pem"
    prose.write_text("Zertifikate für alle: ✓\n")
    for wrong, why in [
        (tmp_path / "gone.pem", "No such file"),
        (tmp_path, "regular file"),
        (empty, "no certificates"),
        (prose, "no certificates"),
    ]:
        (reported,) = problems(f"egress: {{ca_bundle: '{wrong}'}}\n")
        assert reported.startswith("proxy.yaml:4:21: ")
        assert why in reported or "directory" in reported


def test_another_proxy_is_another_pool() -> None:
    one, other = loaded("egress: {proxy: 'http://p:1'}\n"), loaded("egress: {proxy: 'http://p:2'}\n")
    before, after = (each.models["a"].deployments[0] for each in (one, other))
    assert identity_of(before) != identity_of(after)

    async def main() -> None:
        pools = Pools()
        kept = pools.of(before)
        assert pools.of(before) is kept
        assert pools.of(after) is not kept
        await pools.close()

    asyncio.run(main())


def test_a_proxys_password_is_never_shown() -> None:
    secret = "http://corp-user:hunter2hunter2@proxy.corp:3128"
    old, new = loaded(), loaded(f"egress: {{proxy: '{secret}'}}\n")
    reported = [*difference(old, new), *difference(new, old), repr(new), str(new.egress)]
    masks: list[Callable[[str], str]] = [mask_of(new), mask_for(new.models["a"].deployments[0])]
    sent = base64.b64encode(b"corp-user:hunter2hunter2").decode()
    for mask in masks:
        reported += [mask(f"407 from {secret}: hunter2hunter2 is wrong"), mask(f"got Basic {sent}")]
    assert difference(old, new)
    for line in reported:
        assert "hunter2" not in line
        assert sent not in line
    assert "proxy.corp" not in masks[1]("cannot resolve proxy.corp")


def test_check_does_not_show_the_password() -> None:
    found = examine(
        (ENTRY % "" + "egress: {proxy: '${P}'}\n").encode(),
        {"P": "http://u:hunter2hunter2@p:1"},
        implemented=frozenset({"openai"}),
    )
    assert "hunter2" not in str(found.warnings)
