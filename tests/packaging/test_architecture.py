"""docs/architecture.md tells the truth: its layers are the ones that are enforced, its files are there."""

import re
import textwrap
from pathlib import Path

from tests.packaging.test_layers import LAYERS, MODULES, PACKAGE
from tests.support.cases import each

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
LABELS = (
    "values",
    "request format, limits",
    "pure policy",
    "dialects",
    "configuration, data",
    "one request's state",
    "the edges",
    "response cache",
    "the request path",
    "diagnostics",
    "HTTP for clients",
    "the process",
)


def drawing() -> str:
    """The picture as it has to be: paste it when a module has come or gone."""
    tops = {module.partition(".")[0] for module in MODULES}
    layers = []
    for rank, (label, names) in enumerate(zip(LABELS, LAYERS, strict=True), 1):
        lines = textwrap.wrap(" · ".join(sorted(set(names) & tops)), 76)
        heads = [f" {rank:2} │ {label + ':':<24} ", *["    │" + " " * 26] * len(lines)]
        layers.append("\n".join(head + line.strip("· ") for head, line in zip(heads, lines, strict=False)))
    return "\n    ▼\n".join(reversed(layers))


def test_the_diagram_shows_the_enforced_layers() -> None:
    assert drawing() in PAGE, f"in docs/architecture.md draw\n\n{drawing()}\n"


NAMED = sorted(set(re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)))


@each("name", NAMED)
def test_every_named_file_exists(name: str) -> None:
    assert any((place / name).exists() for place in (ROOT, PACKAGE))


def test_every_stage_in_the_diagram_is_a_module() -> None:
    way = PAGE.partition("## The path of a request")[2].partition("## The layers")[0]
    named = re.findall(
        r"^ +(?:gateway/pipeline:)? +[a-z, ]+?  +([a-z_/]+(?:, [a-z_/]+)*)  ", way, re.MULTILINE
    )
    modules = [name for names in named for name in names.split(", ")]
    assert len(modules) > 8
    assert [name for name in modules if not exists(name)] == []


def exists(name: str) -> bool:
    return (PACKAGE / name).is_dir() or Path(PACKAGE / f"{name}.py").is_file()
