"""What is promised and not served yet: these tests must fail, and complain when they no longer do."""

from __future__ import annotations

import pytest

NOT_SERVED = {
    "/completions": (
        "test_the_rest_needs_a_key[POST-/completions",
        "test_the_other_endpoints_name_what_is_wrong_too[/v1/completions",
        "test_a_completion_fills_in_the_middle",
    ),
    "/embeddings": (
        "test_the_rest_needs_a_key[POST-/embeddings",
        "test_the_other_endpoints_name_what_is_wrong_too[/v1/embeddings",
        "test_a_wrong_method_is_named[/v1/embeddings",
        "test_embeddings_",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for path, tests in NOT_SERVED.items():
            if any(name in item.nodeid for name in tests):
                item.add_marker(pytest.mark.xfail(strict=True, reason=f"{path} is not served yet"))
