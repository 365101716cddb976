"""A person with a browser that runs no scripts: cookies, redirects, forms, and what a page says."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin

import httpx2

from tests.support.processes import LOOPBACK
from tests.support.proxy_process import ADMIN, Proxy

Attributes = dict[str, str | None]


class Html(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.source = html
        self.tags: list[tuple[str, Attributes]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.tags if name == tag]

    def links(self) -> list[str]:
        return [found for attributes in self.all("a") if (found := attributes.get("href")) is not None]

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())


@dataclass
class Browser:
    """`path` is relative to `/ui/`."""

    proxy: Proxy
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        # No connection stays open, so nothing has to be closed.
        self.client = httpx2.Client(
            base_url=self.proxy.url,
            **LOOPBACK,
            timeout=60,
            follow_redirects=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def address(self, path: str) -> str:
        return urljoin("/ui/", path)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.client.get(self.address(path), headers=headers)

    def page(self, path: str) -> Html:
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[-600:])
        return Html(answer.text)

    def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx2.Response:
        form = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
        return self.client.post(
            self.address(path), content=urlencode(fields or {}), headers={**form, **headers}
        )

    def sign_in(self, secret: str) -> Browser:
        answer = self.post("sign-in", {"secret": secret})
        assert answer.status_code == 303, answer.text
        return self


def operator(proxy: Proxy) -> Browser:
    return Browser(proxy).sign_in(ADMIN)


def holder(proxy: Proxy, secret: str | None = None) -> Browser:
    """The holder of a virtual key: the proxy's first one unless another is given."""
    return Browser(proxy).sign_in(secret or proxy.key)
