"""Work on large bodies does not hold the event loop."""

import asyncio
import threading

import pytest

from codellama_proxy.core.offload import LARGE_BODY_BYTES, off_loop


@pytest.mark.parametrize(
    ("size", "in_a_thread"), [(0, False), (LARGE_BODY_BYTES - 1, False), (LARGE_BODY_BYTES, True)]
)
def test_large_bodies_are_processed_in_a_thread(size: int, in_a_thread: bool) -> None:
    thread = asyncio.run(off_loop(size, threading.get_ident))
    assert (thread != threading.get_ident()) == in_a_thread
