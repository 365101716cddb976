"""Sealed reasoning: opens unchanged in its own project, and nothing else opens."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.inbound.sealed import PREFIX, is_sealed, open_sealed, seal

KEY = b"k" * 32
CONTENT = st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.lists(st.text()))


@given(content=CONTENT, project=st.text(max_size=20))
def test_what_was_sealed_opens_in_its_project_only(content: dict[str, Any], project: str) -> None:
    sealed = seal(KEY, project, content)
    assert is_sealed(sealed)
    assert open_sealed(KEY, project, sealed) == content
    assert open_sealed(KEY, project + "x", sealed) is None
    assert open_sealed(b"other", project, sealed) is None


@given(at=st.integers(0, 10_000), change=st.characters(), content=CONTENT)
def test_a_changed_seal_does_not_open(at: int, change: str, content: dict[str, Any]) -> None:
    sealed = seal(KEY, "p", content)
    at %= len(sealed)
    changed = sealed[:at] + change + sealed[at + 1 :]
    opened = open_sealed(KEY, "p", changed)
    assert opened is None or opened == content  # the last character of base64 has unused bits


@given(text=st.text())
def test_foreign_text_does_not_open(text: str) -> None:
    assert open_sealed(KEY, "p", text) is None
    assert open_sealed(KEY, "p", PREFIX + text) is None


def test_the_parts_of_project_and_content_cannot_be_exchanged() -> None:
    sealed = seal(KEY, "ab", {"c": "d"})
    assert open_sealed(KEY, "a", sealed) is None
    assert seal(KEY, "ab", {"c": "d"}) == sealed
