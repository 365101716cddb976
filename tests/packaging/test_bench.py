"""The benchmarks' own parts: what they take for an answer, what they pin, what they print. Nothing is timed."""

import ast
import asyncio
import inspect
import itertools
import json
import math
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.instant import ANSWER, BODY, STREAM, TEXT, WORDS, Instant
from bench.load import NUMBER, Work, chat, request_body, requests, run
from bench.peers import LITELLM, PORTKEY, answer_text, said_streaming, version
from bench.postgres_mutants import MUTANTS, Mutant
from bench.profile import MAIN, PARTS, REST, by_row, part_of
from bench.sampler import stack_of
from bench.summary import summary, with_summary
from bench.tables import Section, at_least, at_most, figure, goals, section_of, table, with_sections
from codellama_proxy.inbound.registry import DIALECTS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "codellama_proxy"


def body_of(answer: bytes) -> bytes:
    """Without the head, and without the sizes of chunks."""
    body = answer.split(b"\r\n\r\n", 1)[1]
    return b"".join(re.findall(rb"data: .*?\n\n", body)) or body


def test_the_upstreams_answers_are_accepted_as_complete() -> None:
    assert answer_text(body_of(ANSWER)) == TEXT
    assert said_streaming(body_of(STREAM)) == "".join(WORDS)


@pytest.mark.parametrize("body", [b"", b"oops", b'{"error": {"message": "no"}}', b'{"choices": []}'])
def test_an_incomplete_answer_is_refused(body: bytes) -> None:
    assert answer_text(body) is None
    assert said_streaming(body) is None
    assert said_streaming(b"data: " + body + b"\n\ndata: [DONE]\n\n") != "".join(WORDS)


def test_a_stream_without_done_is_refused() -> None:
    assert said_streaming(body_of(b"\r\n\r\n" + BODY)) is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_load_sends_the_given_number_of_requests(stream: bool) -> None:
    async def loaded() -> dict[str, float]:
        server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0)
        async with server:
            url = urlsplit(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions")
            asked = requests(url, ["none"], [], chat(stream=stream))
            return await run(url, 2, Work(asked, math.inf, 20, b"HTTP/1.1 200", []))

    assert 20 <= asyncio.run(loaded())["requests"] <= 21


def test_requests_use_many_keys() -> None:
    made = requests(urlsplit("http://h/p"), ["a", "b"], ["x-more: 1"], b"{}")
    seen = set(itertools.islice(made, 100))
    assert seen == {
        b"POST /p HTTP/1.1\r\nhost: h\r\nx-more: 1\r\nauthorization: Bearer " + key + b"\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        for key in (b"a", b"b")
    }


def test_other_gateways_are_pinned_completely() -> None:
    lines = [line for line in LITELLM.read_text().splitlines() if not line.startswith("#")]
    assert all(re.match(r"[a-z0-9-]+==[0-9][^ ]*( ;.*)?$", line) for line in lines)
    assert f"litellm=={version(LITELLM, 'litellm')}" in lines

    wanted = json.loads(PORTKEY.read_text())["dependencies"]
    locked = json.loads(PORTKEY.with_name("package-lock.json").read_text())["packages"]
    assert wanted == {"@portkey-ai/gateway": version(PORTKEY, "gateway")}
    assert locked[""]["dependencies"] == wanted
    assert all("integrity" in package for place, package in locked.items() if place)


def test_figures_have_three_significant_digits() -> None:
    assert [figure(one) for one in (0.02, 1.234, 12.34, 123.4, 12345.6)] == [
        "0.020",
        "1.23",
        "12.3",
        "123",
        "12346",
    ]


def test_a_table_shows_targets_beside_measurements() -> None:
    section = Section("S", "", (at_most("a", 1.2, 1.0, "{:.1f} s"), at_least("b", 0.9, 0.85, "{:.0%}")))
    assert goals([section]) == table(
        ["", "target", "measured", ""],
        [("a", "≤ 1.0 s", "1.2 s", "**missed**"), ("b", "≥ 85%", "90%", "reached")],
    )


PAGE = f"""# Results

{goals([Section("A", "", (at_most("a", 1.0, 2.0, "{}"), at_most("Old: b", 1.0, 2.0, "{}")))])}

## A

first

## Old

old text

- of two parts

## More

words
"""


def test_measured_sections_replace_their_predecessors_in_a_page() -> None:
    measured = Section("A", "second", (at_most("a", 3.0, 2.0, "{}"), at_least("c", 1.0, 0.5, "{}")))
    added = Section("B", "third")
    page = with_sections(PAGE, [measured, added])
    assert page == (
        "# Results\n\n"
        + table(
            ["", "target", "measured", ""],
            [
                ("a", "≤ 2.0", "3.0", "**missed**"),
                ("Old: b", "≤ 2.0", "1.0", "reached"),
                ("c", "≥ 0.5", "1.0", "reached"),
            ],
        )
        + "\n\n## A\n\nsecond\n\n## Old\n\nold text\n\n- of two parts\n\n## B\n\nthird\n\n## More\n\nwords\n"
    )
    assert with_sections(page, [measured, added]) == page


def test_a_section_of_a_page_can_be_put_into_another() -> None:
    kept = section_of(PAGE, "Old")
    assert kept == Section("Old", "old text\n\n- of two parts", [at_most("Old: b", 1.0, 2.0, "{}")])
    assert with_sections(PAGE, [kept]) == PAGE
    assert section_of(PAGE, "Other") is None


def functions(path: Path) -> set[str]:
    """Qualified names of the functions and methods of a module."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if hasattr(one, "name")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize(
    "place", [place for places in PARTS.values() for place in places if place != "uvicorn"]
)
def test_the_parts_of_the_cost_table_exist(place: str) -> None:
    path, _, function = place.partition(":")
    assert (PACKAGE / path).exists()
    assert not function or function in functions(PACKAGE / path)


def test_a_sample_counts_for_the_innermost_part() -> None:
    at = "/x/codellama_proxy"
    loop = ("/lib/python3.11/asyncio/runners.py", "Runner.run")
    outer = (f"{at}/server/process.py", "serve")
    settle = (f"{at}/gateway/accounting.py", "Accounting._book")
    assert (
        part_of(((f"{at}/core/money.py", "nanos"), settle, (f"{at}/gateway/pipeline.py", "Gateway.answer")))
        == "settle"
    )
    assert part_of(((f"{at}/gateway/accounting.py", "Accounting.admit"), loop, outer)) == "admission"
    assert part_of((("/x/site-packages/uvicorn/server.py", "Server.main_loop"), loop)) == "server, HTTP"
    assert part_of((loop, outer)) == REST


def test_a_stack_names_its_functions() -> None:
    stack = stack_of(inspect.currentframe())
    assert stack[0] == (__file__, "test_a_stack_names_its_functions")


def test_the_time_of_the_main_thread_is_divided_by_samples() -> None:
    tracking = (("/codellama_proxy/tracking/log.py", "Log.request"),)
    rows = by_row(
        [(tracking, 3), ((), 1)], {1: 100.0, 2: 20.0, 3: 5.0}, {1: "MainThread", 2: "store-writer"}, 1
    )
    assert {name: time for name, time in rows.items() if time} == {
        MAIN: 100.0,
        "log, metrics": 75.0,
        REST: 25.0,
        "writer thread": 20.0,
        "other threads": 5.0,
        "all": 125.0,
    }


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_each_api_is_asked_the_same(path: str) -> None:
    body = request_body(path, stream=True, unique=True)
    request = next(one for endpoint, one in DIALECTS.items() if path.endswith(endpoint)).parse(
        body, dict, "req_1", 0
    )
    assert request.stream
    assert NUMBER.encode() in body


def test_the_readme_shows_the_results() -> None:
    results, readme = ((ROOT / path).read_text() for path in ("bench/RESULTS.md", "README.md"))
    assert summary(results) in readme
    assert with_summary(readme, results) == readme


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_of_the_ledger_changes_a_text_that_exists(mutant: Mutant) -> None:
    assert mutant.old in (ROOT / mutant.file).read_text()
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests)
