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


ENTRIES: tuple[Entry, ...] = ()


def navigation(viewer: Viewer, section: str) -> tuple[tuple[Entry, bool], ...]:
    """The viewer's entries, each with whether it is the page's own."""
    shown = [entry for entry in ENTRIES if viewer.is_operator or not entry.operator]
    return tuple([(entry, entry.page == section) for entry in shown])
