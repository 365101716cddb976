"""The answers in memory."""

from __future__ import annotations

from collections import OrderedDict

from codellama_proxy.cache.key import CachedAnswer

MAX_MEMORY_BYTES = 64 << 20
"""Maximum size of the answers in memory, including `ENTRY_OVERHEAD_BYTES` for each."""
ENTRY_OVERHEAD_BYTES = 1024


class LruCache:
    """The most recently used answers, bounded by number and by bytes."""

    def __init__(self, most_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._answers: OrderedDict[bytes, CachedAnswer] = OrderedDict()
        self._most_bytes = most_bytes
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: bytes) -> bool:
        return key in self._answers

    def get(self, key: bytes) -> CachedAnswer | None:
        found = self._answers.get(key)
        if found is not None:
            self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: CachedAnswer, most: int) -> None:
        if key in self._answers:
            self.drop(key)
        size = answer.size + ENTRY_OVERHEAD_BYTES
        if size > self._most_bytes:
            return
        self._answers[key] = answer
        self.bytes += size
        self._shrink(most)

    def replace(self, key: bytes, old: CachedAnswer, new: CachedAnswer) -> None:
        """Puts `new` in the place of `old`, unless another answer is there by now."""
        if self._answers.get(key) is old:
            self._answers[key] = new
            self.bytes += new.size - old.size
            self._shrink(len(self._answers))

    def _shrink(self, most: int) -> None:
        while len(self._answers) > most or self.bytes > self._most_bytes:
            self.drop(next(iter(self._answers)))

    def drop(self, key: bytes) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self.bytes -= found.size + ENTRY_OVERHEAD_BYTES

    def clear(self) -> None:
        self._answers.clear()
        self.bytes = 0
