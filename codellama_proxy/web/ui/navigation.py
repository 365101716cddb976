"""The entries of the side bar."""

from __future__ import annotations

from typing import NamedTuple

from codellama_proxy.web.ui.viewer import Viewer


class Entry(NamedTuple):
    page: str
    """The first part of its path."""
    title: str
    icon: str
    """The path of an SVG, 16 by 16."""
    operator: bool = False
    """Whether only the operator sees it."""
    gap: bool = False
    """Whether there is a gap above it."""


ENTRIES = (
    Entry("overview", "Overview", "M2 13h3V7H2zm4.5 0h3V3h-3zm4.5 0h3V9h-3z"),
    Entry("requests", "Requests", "M2 4h12M2 8h12M2 12h8"),
    Entry("models", "Models", "M8 2 14 5v6l-6 3-6-3V5zM2 5l6 3 6-3M8 8v6"),
    Entry("keys", "Keys", "M10.5 2a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM8 8l-6 6M4 12l2 2"),
    Entry("budgets", "Budgets", "M8 2a6 6 0 1 0 6 6H8z"),
    Entry("playground", "Playground", "M4 3l9 5-9 5z", gap=True),
    Entry("connect", "Connect", "M6 3v4M10 3v4M4 7h8v2a4 4 0 0 1-8 0zM8 13v2"),
    Entry("config", "Configuration", "M3 4h7M13 4h0M3 8h2M8 8h5M3 12h6M12 12h1", operator=True),
)


def navigation(viewer: Viewer, section: str) -> tuple[tuple[Entry, bool], ...]:
    """The viewer's entries, each with whether it is the page's own."""
    shown = [entry for entry in ENTRIES if viewer.is_operator or not entry.operator]
    return tuple([(entry, entry.page == section) for entry in shown])
