"""Rounded durations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.clock import nearest


@given(st.floats(-1e6, 1e9), st.sampled_from([1, 2]))
def test_nearest_rounds_to_decimals(value: float, decimals: int) -> None:
    shown = nearest(value, 10**decimals)
    assert abs(shown - value) <= 0.5 * 10**-decimals + 1e-6
    assert shown == round(shown, decimals), "it prints with these decimals"
