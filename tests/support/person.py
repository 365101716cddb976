"""A person at a browser: visits pages of the dashboard, and notices what the console says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Response, expect

from tests.support.processes import ROOT
from tests.support.proxy_process import ADMIN

SCREENSHOTS = ROOT / "build" / "screenshots"
SCREENSHOTS_VARIABLE = "PROXY_TEST_SCREENSHOTS"
KEEPS_SCREENSHOTS = bool(os.environ.get(SCREENSHOTS_VARIABLE))
"""They show people the pages. No test looks at them, and they take a third of the time."""
AXE = ROOT / "tests" / "browser" / "vendored" / "axe.min.js"
DESK = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}
TIMEOUT_MS = 20_000
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
COLOURS = ("color-contrast",)
"""The rules that depend on the theme."""
WIDTH = ("scrollable-region-focusable", "target-size", "region")
"""The rules that depend on the width."""
UNTRUSTWORTHY = (
    "Cross-Origin-Opener-Policy header has been ignored, because the URL's origin was untrustworthy"
)
"""Said by Chromium of every page over plain http on a name."""
RESIZED = "Transition was aborted because of invalid state. Viewport size changed"
"""Said by Chromium if a window is resized in the moment between two pages."""
REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


@dataclass
class Person:
    """`start` is the dashboard's address, with a slash at its end."""

    context: BrowserContext
    start: str
    allowed: list[str] = field(default_factory=lambda: [UNTRUSTWORTHY, RESIZED])
    """Patterns of what the console may say, such as the status of a page that is refused on purpose."""
    said: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.add_init_script(REPORT_VIOLATIONS)
        self.context.on("console", self._note)
        self.context.on("weberror", lambda error: self.said.append(f"uncaught: {error.error}"))
        self.page = self.context.new_page()

    def _note(self, message: ConsoleMessage) -> None:
        self.said.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def complaints(self) -> list[str]:
        """What the console said and may not."""
        return [one for one in self.said if not any(re.search(pattern, one) for pattern in self.allowed)]

    def may_see_status(self, *statuses: int) -> Person:
        """The console tells of every response with a status of 400 or more; these are expected."""
        self.allowed += [f"the server responded with a status of {status}" for status in statuses]
        return self

    # moving about

    def visit(self, path: str) -> Response:
        """Loads a page of the dashboard by its address."""
        answer = self.page.goto(self.start + path)
        assert answer is not None
        return answer

    def enter(self, secret: str = ADMIN) -> Person:
        """Signs in without the form, and loads no page."""
        answer = self.context.request.post(
            self.start + "sign-in",
            form={"secret": secret},
            headers={"sec-fetch-site": "same-origin"},
            max_redirects=0,
        )
        assert answer.status == 303, answer.text()
        return self

    def sign_in(self, secret: str = ADMIN) -> Person:
        """Signs in with the form, which leads to the overview."""
        self.visit("sign-in")
        self.page.get_by_label("Your key").fill(secret)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(re.compile(r"/ui/overview"))
        return self

    def follow(self, name: str) -> None:
        """Follows a link of the side bar; from the overview if no page is loaded."""
        if self.page.url == "about:blank":
            self.visit("overview")
        self.page.get_by_role("navigation", name="Main").get_by_role("link", name=name).click()
        expect(self.heading).to_be_visible()

    @property
    def heading(self) -> Locator:
        return self.page.get_by_role("heading", level=1)

    @property
    def path(self) -> str:
        """Of the present page, behind the dashboard's address, with its query."""
        assert self.page.url.startswith(self.start), self.page.url
        return self.page.url.removeprefix(self.start)

    @property
    def rows(self) -> Locator:
        """The rows of the list of requests."""
        return self.page.locator("#rows tr")

    # looking closely

    def findings(self, rules: Sequence[str] = RULES) -> list[str]:
        """What axe-core finds on the page as it stands."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text("utf-8"))
        found: dict[str, Any] = self.page.evaluate(
            "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", list(rules)
        )
        return [
            f"{one['id']} ({one['impact']}): {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    def picture(self, name: str) -> None:
        """Keeps a screenshot of the whole page if screenshots are wanted."""
        if KEEPS_SCREENSHOTS:
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def sideways(self) -> int:
        """Pixels by which the page is wider than its window."""
        found: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return found


@contextmanager
def person(browser: Browser, address: str, **context: Any) -> Iterator[Person]:
    """Somebody with a new browser profile; at the end, the console must have been silent."""
    given = {
        "viewport": DESK,
        "reduced_motion": "reduce",
        "color_scheme": "light",
        "timezone_id": "Asia/Kolkata",
        "permissions": ["clipboard-write"],  # browsers with a window give it to whoever clicks
    }
    opened = browser.new_context(**{**given, **context})
    one = Person(opened, f"{address}/ui/")
    try:
        yield one
    finally:
        opened.close()
    assert not one.complaints(), "\n".join(one.complaints())
