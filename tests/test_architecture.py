"""docs/architecture.md tells the truth: its layers are the ones that are enforced, its files are there."""

import re
from pathlib import Path

import pytest

from tests.test_layers import LAYERS, MODULES, PACKAGE

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
LAYER = re.compile(r"^ *(?P<rank>\d)? *│ *(?:(?P<label>[a-zA-Z ]+):)? +(?P<names>\w+(?: · \w+)*)$")


def drawn() -> dict[int, set[str]]:
    """The picture's layers by rank; a line without a number goes on with the one above it."""
    found: dict[int, set[str]] = {}
    rank = 0
    for line in PAGE.splitlines():
        if match := LAYER.match(line):
            rank = int(match["rank"] or rank)
            found.setdefault(rank, set()).update(match["names"].split(" · "))
    return found


def test_the_picture_shows_the_layers_that_imports_are_held_to() -> None:
    tops = {module.partition(".")[0] for module in MODULES}
    assert drawn() == {rank: set(names) & tops for rank, names in enumerate(LAYERS, 1)}


NAMED = sorted(set(re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_every_file_it_names_is_there(name: str) -> None:
    assert any((place / name).exists() for place in (ROOT, PACKAGE))


def test_every_stage_it_shows_is_a_module() -> None:
    way = PAGE.partition("## A request's way")[2].partition("## The layers")[0]
    named = re.findall(r"^ +(?:gateway\.answer:)? +[a-z, ]+?  +([a-z/]+(?:, [a-z/]+)*)  ", way, re.MULTILINE)
    modules = [name for names in named for name in names.split(", ")]
    assert len(modules) > 8
    assert [name for name in modules if not exists(name)] == []


def exists(name: str) -> bool:
    return (PACKAGE / name).is_dir() or Path(PACKAGE / f"{name}.py").is_file()
