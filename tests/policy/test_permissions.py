"""Which models a key may use."""

from codellama_proxy.policy.permissions import allows


def test_allow_lists_support_shell_wildcards_and_are_case_sensitive() -> None:
    assert allows(None, "anything")
    assert not allows((), "anything")
    assert allows(("gpt-*", "codellama"), "gpt-4")
    assert not allows(("gpt-*",), "GPT-4")
