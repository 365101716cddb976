"""Headers of a response as the bytes that are sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class HeaderLines(Mapping[str, str]):
    """Header lines, parsed only where they are read as a mapping. The names are in lower case and differ."""

    __slots__ = ("_fields", "text")

    def __init__(self, text: str) -> None:
        """`text` has no characters beyond Latin-1, and no control characters besides the end of each line, CRLF."""
        self.text = text
        self._fields: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._parsed()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())

    def _parsed(self) -> dict[str, str]:
        if self._fields is None:
            lines = [line.partition(": ") for line in self.text.split("\r\n")[:-1]]
            self._fields = {name: value for name, _, value in lines}
        return self._fields
