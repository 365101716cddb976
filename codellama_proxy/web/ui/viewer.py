"""Who looks at the dashboard, and what of it they may see."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from codellama_proxy.core.types import Key
from codellama_proxy.store.reports import Filters

SESSION_CHARACTERS = 12
"""Of the hash of a session's ID, as the audit has them."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """The operator, who sees everything, or the holder of a virtual key, who sees that key's project, read only."""

    key: Key | None
    """`None` for the operator."""
    session: str
    """The SHA-256 of the session's ID."""

    @property
    def is_operator(self) -> bool:
        return self.key is None

    @property
    def label(self) -> str:
        """The viewer's name on pages."""
        return "operator" if self.key is None else self.key.name or f"{self.key.prefix}…"

    @property
    def actor(self) -> str:
        """The viewer in the audit of keys: the session, which tells operators with one master key apart."""
        return f"ui:{self.session[:SESSION_CHARACTERS]}"

    def project(self, asked: str | None) -> str | None:
        """The project that a page is about: a key holder's own whatever was `asked`; `None`: all projects."""
        return self.key.project if self.key is not None else asked or None

    def within(self, filters: Filters) -> Filters:
        """The filters, restricted to what the viewer may see."""
        return filters._replace(project=self.project(filters.project))

    def may_see(self, project: str) -> bool:
        return self.key is None or self.key.project == project


def viewer_of(request: Request) -> Viewer:
    """The viewer of a page, which `guard` has set."""
    viewer: Viewer = request.state.viewer
    return viewer


def known_viewer(request: Request) -> Viewer | None:
    """The viewer, or `None` on pages without sign-in."""
    return getattr(request.state, "viewer", None)
