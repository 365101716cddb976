"""The JSON Schema of proxy.yaml, the `check` command and the environment."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from codellama_proxy.config.check_report import inspect, printed
from codellama_proxy.config.json_schema import schema
from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.reference_page import manual
from codellama_proxy.config.schema import File
from codellama_proxy.config.section import Section
from codellama_proxy.config.settings import Settings, environment
from codellama_proxy.config.validate.messages import A_MAPPING
from codellama_proxy.config.yaml.document import parse
from codellama_proxy.core.snapshot import Deployment
from tests.support.cases import each

ROOT = Path(__file__).parents[2]
IMPLEMENTED = frozenset({"openai", "together", "anthropic", "mock"})
SCHEMA = schema()

# --- the schema --------------------------------------------------------------------------------------------

NUMBERS = (int, Decimal)
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": NUMBERS,
    "boolean": (bool,),
    "null": (type(None),),
}


def is_a(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def additional(value: dict[str, Any], rule: dict[str, Any]) -> list[Any]:
    patterns = rule.get("patternProperties", {})
    known = [n for n in value if n in rule.get("properties", {}) or any(re.search(p, n) for p in patterns)]
    return [content for name, content in value.items() if name not in known]


Word = Callable[[Any, Any, dict[str, Any]], bool]

# A word says nothing about values of another type than the one it is for.
WORDS: dict[str, tuple[tuple[type, ...], Word]] = {
    "$ref": ((object,), lambda v, c, _: fits(v, SCHEMA["$defs"][c.removeprefix("#/$defs/")])),
    "anyOf": ((object,), lambda v, c, _: any(fits(v, option) for option in c)),
    "type": ((object,), lambda v, c, _: is_a(v, c)),
    "enum": ((object,), lambda v, c, _: v in c),
    "const": ((object,), lambda v, c, _: v is c),
    "pattern": ((str,), lambda v, c, _: re.search(c, v) is not None),
    "minimum": (NUMBERS, lambda v, c, _: bool(v >= c)),
    "maximum": (NUMBERS, lambda v, c, _: bool(v <= c)),
    "exclusiveMinimum": (NUMBERS, lambda v, c, _: bool(v > c)),
    "items": ((list,), lambda v, c, _: all(fits(item, c) for item in v)),
    "required": ((dict,), lambda v, c, _: set(c) <= set(v)),
    "properties": ((dict,), lambda v, c, _: all(fits(item, c[n]) for n, item in v.items() if n in c)),
    "patternProperties": (
        (dict,),
        lambda v, c, _: all(fits(item, c[p]) for p in c for n, item in v.items() if re.search(p, n)),
    ),
    "additionalProperties": (
        (dict,),
        lambda v, c, rule: c is True or all(c and fits(item, c) for item in additional(v, rule)),
    ),
    **dict.fromkeys(("description", "default", "title", "$schema", "$defs"), ((), lambda *_: True)),
}


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """JSON Schema, as much of it as ours uses; another word is a KeyError."""
    for word, content in rule.items():
        types, check = WORDS[word]
        if isinstance(value, types) and not check(value, content, rule):
            return False
    return True


def allows(text: str) -> bool:
    """Whether an editor that does not substitute finds nothing wrong."""
    return fits(parse(text.encode(), lambda name: f"${{{name}}}").root, SCHEMA)


def test_the_committed_schema_is_up_to_date() -> None:
    assert json.loads((ROOT / "proxy.schema.json").read_text()) == SCHEMA


def test_the_committed_reference_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == manual()


def test_the_reference_page_has_every_key_once() -> None:
    counted = Counter(
        (title.split("\n")[0], key)
        for title in manual().split("\n## ")
        for key in re.findall(r"(?m)^\| `([a-z_0-9]+)` \|", title)
    )
    keys = Counter(f.alias or n for s in sections() for n, f in s.model_fields.items())
    shown = Counter(key for _, key in counted)
    assert set(counted.values()) == {1}
    assert shown == keys


def test_the_shipped_file_names_and_satisfies_the_schema() -> None:
    text = (ROOT / "proxy.yaml").read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=proxy.schema.json"
    assert allows(text)
    assert allows(re.sub(r"(?m)^#(?=[a-z]|  [a-z])", "", text))


M = "models: []\n"

ALLOWED = [
    M,
    "models: [{name: a, provider: mock}]\nserver:\n",
    M + "routing: {deadline: 90, backoff: {initial: 250ms}}",
    M
    + "routing: {deadline: '${DEADLINE}', retries: '${N:-2}', unknown_model: '${U}', fallback_on: ['${F}']}",
    M + "limits: {key: {max_budget: 0.5, budget_duration: 30d, rpm_limit: null, shadow: '${S}'}}",
    M + "server: {max_body: 10MB}\nguardrail: {system_prompt: false}",
    M + "projects: {web-team: {models: ['gpt-*'], guardrail: text}, other: }",
]
FORBIDDEN = [
    "server: {}",
    "models: {}",
    "models: [{provider: mock}]",
    "models: [{name: a, provider: opnai}]",
    "models: [{name: a, provider: mock, price: {input: -1, output: 1}}]",
    M + "routng: {}",
    M + "routing: {deadline: 90x}",
    M + "routing: {retries: 1.5}",
    M + "routing: {fallback_on: [other]}",
    M + "auth: {required: yes}",
    M + "server: {max_body: 10XB}",
    M + "projects: {web team: {}}",
    M + "limits: {key: {budget_duration: 3w}}",
    M + "limits: {key: {max_budget: 1_0}}",
    M + "limits: {key: {max_budget: \N{FULLWIDTH DIGIT NINE}}}",
    M + "limits: {key: {rpm_limit: 1_0}}",
]


@pytest.mark.parametrize("text", ALLOWED)
def test_the_schema_allows_what_the_loader_reads(text: str) -> None:
    assert allows(text)


@each("text", FORBIDDEN)
def test_the_schema_forbids_what_the_loader_refuses(text: str) -> None:
    assert not allows(text)


def sections(section: type[BaseModel] = Section) -> Iterator[type[BaseModel]]:
    for inner in section.__subclasses__():
        yield inner
        yield from sections(inner)


def test_every_key_is_described_and_every_section_closed_and_frozen() -> None:
    undescribed = [
        (s.__name__, n) for s in sections() for n, f in s.model_fields.items() if not f.description
    ]
    assert undescribed == []
    assert all(s.model_config["extra"] == "forbid" and s.model_config["frozen"] for s in sections())
    assert all(
        key.get("description")
        for part in SCHEMA["$defs"].values()
        for key in part.get("properties", {}).values()
    )


def test_every_key_of_an_entry_reaches_the_deployment() -> None:
    elsewhere = {
        "allow_insecure",
        "completions",
        "fallbacks",
        "deployment",
        "api_version",
        "input_map",
        "prompt_format",
    }
    arrives = set(Deployment.__dataclass_fields__)
    assert set(Entry.model_fields) - elsewhere <= arrives


# --- check -------------------------------------------------------------------------------------------------


def test_check_accepts_a_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_bytes((ROOT / "proxy.yaml").read_bytes())
    report = inspect(path, {"TOGETHER_API_KEY": "k"}, implemented=IMPLEMENTED)
    code, lines = report.code, printed(report)
    assert code == 0
    assert lines == [
        f"{path}:16:14: warning: gpt-4 is disabled: OPENAI_API_KEY is not set",
        f"{path}:20:14: warning: claude is disabled: ANTHROPIC_API_KEY is not set",
        f"{path} is valid: 2 models ready, 2 entries disabled",
    ]


def test_check_prints_every_error_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("models: []\nlimits: {key: {budget_duration: day}}\nroutng: {}\nauth: 1\n")
    report = inspect(path, {}, implemented=IMPLEMENTED)
    code, lines = report.code, printed(report)
    assert code == 1
    assert lines == [
        f"{path}:2:33: warning: limits.key.budget_duration: without max_budget it does nothing",
        f'{path}:3:1: routng: unknown key "routng"; did you mean "routing"?',
        f"{path}:4:7: auth: {A_MAPPING}; to let anybody call, write {{required: false}}",
        f"{path}: 2 errors",
    ]


def test_check_names_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    report = inspect(path, {}, implemented=IMPLEMENTED)
    assert (report.code, printed(report)) == (
        1,
        [f"{path}:1:1: cannot be read: No such file or directory", f"{path}: 1 error"],
    )


def test_the_schema_has_every_section_of_the_file() -> None:
    assert set(SCHEMA["properties"]) == set(File.model_fields)


# --- the environment ---------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONFIG", "DATABASE", "HOST", "PORT", "MASTER_KEY", "LOG_LEVEL", "LOG_FORMAT"):
        monkeypatch.delenv(f"PROXY_{name}", raising=False)
    return tmp_path


def test_without_variables_the_documented_defaults_hold(here: Path) -> None:
    settings = Settings()
    assert (str(settings.config), settings.database) == ("proxy.yaml", "data/proxy.db")
    assert (settings.host, settings.port) == ("127.0.0.1", 4000)
    assert (settings.master_key, settings.log_level, settings.log_format) == (None, "info", None)


def test_arguments_override_environment_and_dotenv(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".env").write_text("PROXY_PORT=5000\nPROXY_HOST=0.0.0.0\nPROXY_LOG_FORMAT=JSON\nOTHER=x\n")
    monkeypatch.setenv("PROXY_PORT", "6000")
    settings = Settings()
    assert (settings.port, settings.host, settings.log_format) == (6000, "0.0.0.0", "json")
    assert Settings(port=7000).port == 7000


@pytest.mark.parametrize("text", ["4_000", "\N{FULLWIDTH DIGIT NINE}", "4000.0", "+4000"])
def test_ports_and_numbers_of_workers_are_written_in_plain_digits(here: Path, text: str) -> None:
    for values in ({"port": text}, {"workers": text}):
        with pytest.raises(ValidationError, match="must be a whole number"):
            Settings(**values)  # type: ignore[arg-type]  # pydantic reads the strings


def test_a_short_master_key_is_refused_without_being_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_MASTER_KEY", "short-secret")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "at least 16 characters" in str(caught.value)
    assert "short-secret" not in str(caught.value)


def test_a_long_master_key_is_kept_secret_and_an_empty_one_is_unset(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_MASTER_KEY", "0123456789abcdef")
    settings = Settings()
    assert settings.master_key is not None
    assert settings.master_key.get_secret_value() == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(settings)
    monkeypatch.setenv("PROXY_MASTER_KEY", "")
    assert Settings().master_key is None


@pytest.mark.parametrize(("name", "value"), [("PORT", "65536"), ("PORT", "x"), ("LOG_LEVEL", "loud")])
def test_an_invalid_variable_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PROXY_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_substitution_prefers_the_environment_to_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("A=from-file\nB=from-file\nexport C='quoted value'\nD=\nE\n")
    assert environment(dotenv, {"A": "set", "B": "", "F": "set"}) == {
        "A": "set",
        "B": "from-file",
        "C": "quoted value",
        "F": "set",
    }
    assert environment(tmp_path / "none", {"A": "set"}) == {"A": "set"}
