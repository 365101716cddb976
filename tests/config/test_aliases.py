"""`aliases:` of proxy.yaml: what is refused, what is warned about, and what a reload says."""

from __future__ import annotations

import pytest

from codellama_proxy.config.diff import difference
from codellama_proxy.config.load import examine, load
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.core.snapshot import Snapshot
from tests.support.cases import each

IMPLEMENTED = frozenset({"mock"})
MODELS = "models:\n- {name: codellama, provider: mock}\n- {name: claude, provider: mock}\n"


def read(aliases: str, environ: dict[str, str] | None = None) -> Snapshot:
    return load(f"{MODELS}aliases: {aliases}\n".encode(), environ or {}, implemented=IMPLEMENTED)


def problems(aliases: str, environ: dict[str, str] | None = None) -> list[str]:
    text = f"{MODELS}aliases:\n{aliases}".encode()
    try:
        found = examine(text, environ or {}, implemented=IMPLEMENTED).warnings
    except ConfigError as error:
        found = error.problems
    return [str(one) for one in found if "aliases" in str(one)]


def test_aliases_keep_the_order_of_the_file() -> None:
    found = read("{'claude-*': claude, gpt-3.5-turbo: codellama, '*': codellama}")
    assert list(found.aliases.items()) == [
        ("claude-*", "claude"),
        ("gpt-3.5-turbo", "codellama"),
        ("*", "codellama"),
    ]
    assert read("false").aliases == read("").aliases == {}


@each(
    ("aliases", "message"),
    [
        (
            "  gpt: codelama\n",
            'proxy.yaml:5:8: aliases.gpt: there is no model "codelama"; did you mean "codellama"?',
        ),
        (
            "  claude: codellama\n",
            "proxy.yaml:5:11: aliases.claude: a model has this name, and its own name comes first",
        ),
        (
            "  one: codellama\n  two: one\n",
            'proxy.yaml:6:8: aliases.two: "one" is an alias itself, not a model; write "codellama"',
        ),
        ("  one: one\n", 'proxy.yaml:5:8: aliases.one: "one" is an alias itself, not a model'),
        (
            "  a*: claude\n  abc: codellama\n",
            'proxy.yaml:6:8: warning: aliases.abc: never used: "a*" above it matches first',
        ),
        (
            "  gpt: [claude]\n",
            "proxy.yaml:5:8: aliases.gpt: expected text; quote it if it looks like something else",
        ),
        ("  gpt: ${UNSET}\n", "proxy.yaml:5:8: aliases.gpt: UNSET is not set"),
        ("  a b: claude\n", "proxy.yaml:5:8: aliases.a b: expected a model name, or a pattern such as gpt-*"),
    ],
)
def test_problems_are_reported_with_their_position(aliases: str, message: str) -> None:
    assert problems(aliases) == [message]


def test_a_substituted_target_is_not_shown() -> None:
    (message,) = problems("  gpt: ${MODEL}\n", {"MODEL": "sk-secret-model-name"})
    assert message.endswith("aliases.gpt: there is no such model")


def test_problems_of_aliases_are_reported_beside_others() -> None:
    text = b"models: [{name: a, provider: mock, wieght: 2}]\naliases: {b: c}\n"
    with pytest.raises(ConfigError) as caught:
        load(text, {}, implemented=IMPLEMENTED)
    assert len(caught.value.problems) == 2


@each(
    ("before", "after", "lines"),
    [
        ("{a: claude}", "{a: claude, b: codellama}", ["aliases: +b"]),
        ("{a: claude, b: claude}", "{b: claude}", ["aliases: -a"]),
        ("{a: claude}", "{a: codellama}", ["aliases.a claude → codellama"]),
        ("{'a*': claude, ab: claude}", "{ab: claude, 'a*': claude}", ["aliases: order a*, ab → ab, a*"]),
        ("{a: claude}", "{a: claude}", []),
    ],
)
def test_a_reload_shows_what_changed(before: str, after: str, lines: list[str]) -> None:
    assert difference(read(before), read(after)) == lines


def test_switching_stickiness_off_is_shown() -> None:
    off = load(f"{MODELS}routing: {{sticky: false}}\n".encode(), {}, implemented=IMPLEMENTED)
    assert difference(read("{}"), off) == ["routing.sticky true → false"]


def test_deployments_keep_their_identity_when_entries_are_inserted() -> None:
    def identities(*keys: str) -> list[str]:
        entries = "".join(f"- {{name: m, provider: mock, model: {key}}}\n" for key in keys)
        found = load(f"models:\n{entries}".encode(), {}, implemented=IMPLEMENTED)
        return [d.identity for d in found.models["m"].deployments]

    assert identities("new", "x", "y")[1:] == identities("x", "y")
    assert len(set(identities("x", "x"))) == 2
