"""Token counts: exact with a vocabulary, honest without, and never a reason to use the network."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.counter import Counter
from codellama_proxy.tokens.tokenizers import Tokenizers, estimate
from tests.support.builders import chat, deployment
from tests.support.cases import each

SEED = Path(__file__).parents[2] / "scripts" / "dev" / "seed_tokenizer.py"
MIXED = "hello world, naïve 世界 <|endoftext|>"


@pytest.fixture(scope="module")
def seeded() -> Path:
    """Where an installation has put the vocabularies, if it could."""
    directory = Path(sys.prefix) / "share" / "tiktoken"
    if not all((directory / file).exists() for file, _ in tokens.FILES.values()):
        pytest.skip("no tokenizer files")
    return directory


@pytest.fixture(scope="module")
def tokenizers(seeded: Path) -> Tokenizers:
    return Tokenizers({name: tokens.load(name, seeded) for name in tokens.FILES})


@given(st.text())
def test_an_estimate_is_at_least_one_for_text_and_zero_without(text: str) -> None:
    assert estimate(text) >= (1 if text else 0)
    assert estimate("") == 0


@given(st.text(), st.text())
def test_estimates_grow_with_the_text(text: str, more: str) -> None:
    assert estimate(text + more) >= estimate(text) - 1


def test_without_vocabularies_counts_are_estimates(tmp_path: Path) -> None:
    assert tokens.load("cl100k_base", tmp_path / "nowhere") is None
    assert Tokenizers({"cl100k_base": None}).count(MIXED, "gpt-4") == (estimate(MIXED), False)


def test_a_damaged_vocabulary_is_not_used_or_modified(tmp_path: Path) -> None:
    for file, _ in tokens.FILES.values():
        (tmp_path / file).write_bytes(b"damaged")
    assert [tokens.load(name, tmp_path) for name in tokens.FILES] == [None, None]
    assert all((tmp_path / file).read_bytes() == b"damaged" for file, _ in tokens.FILES.values())


def test_openai_models_are_counted_exactly(tokenizers: Tokenizers) -> None:
    assert tokenizers.count(MIXED, "gpt-4") == (15, True)
    assert tokenizers.count(MIXED, "gpt-4o") == (13, True)
    assert tokenizers.count(MIXED, "openai/gpt-5") == (13, True)


def test_other_models_are_counted_approximately_and_marked(tokenizers: Tokenizers) -> None:
    assert tokenizers.count(MIXED, "codellama/CodeLlama-34b-Instruct-hf") == (15, False)
    assert tokenizers.count(MIXED, "claude-sonnet-4-6") == (15, False)


def test_a_large_text_has_the_same_count_off_the_event_loop(tokenizers: Tokenizers) -> None:
    text = "def fibonacci(n):\n    return n\n" * 5000
    assert asyncio.run(tokenizers.count_in_thread(text, "gpt-4o")) == tokenizers.count(text, "gpt-4o")
    assert asyncio.run(tokenizers.count_in_thread("short", "gpt-4o")) == tokenizers.count("short", "gpt-4o")


@given(text=st.text(max_size=300))
def test_a_text_has_at_most_one_token_per_byte(tokenizers: Tokenizers, text: str) -> None:
    count, _ = tokenizers.count(text, "gpt-4o")
    assert count <= len(text.encode("utf-8", "replace"))


@each(
    ("model", "encoding"),
    [
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("openai/gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("codellama", "cl100k_base"),
        ("claude-sonnet-4-6", "cl100k_base"),
    ],
)
def test_each_model_has_its_encoding(model: str, encoding: str) -> None:
    assert tokens.encoding_name(model) == encoding


def test_a_vocabulary_is_loaded_on_first_use(seeded: Path) -> None:
    async def use() -> list[set[str]]:
        counter, seen = Counter(seeded), []
        for model in ("codellama", "gpt-4", "gpt-4o"):
            await counter.prompt(chat(), deployment("a", model=model))
            seen.append(set(counter._tokenizers.encodings))
        return seen

    assert asyncio.run(use()) == [{"cl100k_base"}, {"cl100k_base"}, {"cl100k_base", "o200k_base"}]


# --- chats -------------------------------------------------------------------------------------------------


def test_a_chat_counts_content_and_message_overhead() -> None:
    messages = [{"role": "system", "content": "abcd"}, {"role": "user", "name": "bob", "content": "abcdefgh"}]
    assert tokens.of_chat(messages, [], len) == 3 + (3 + 6 + 4) + (3 + 4 + 8 + 1 + 3)


def test_tools_and_calls_are_counted_as_json() -> None:
    tool = {"type": "function"}
    called = {"role": "assistant", "content": None, "tool_calls": [tool]}
    assert tokens.of_chat([called], [tool], len) == 3 + (3 + 9 + 21) + (10 + 19)


def test_images_are_counted_as_a_constant() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    parts = [{"type": "text", "text": "abc"}, picture, {"type": "nonsense"}]
    assert tokens.of_chat([{"role": "user", "content": parts}], [], len) == 3 + 3 + 4 + 3 + tokens.IMAGE
    picture["image_url"] = {"detail": "low"}
    assert tokens.of_chat([{"role": "user", "content": [picture]}], [], len) == 3 + 3 + 4 + tokens.IMAGE_LOW


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_content_of_any_shape_is_counted(content: Any) -> None:
    assert tokens.of_chat([{"role": "user", "content": content}], [], estimate) >= 6


# --- seeding -----------------------------------------------------------------------------------------------


def seed(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SEED), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )


def test_repeated_seeding_needs_no_network(seeded: Path, tmp_path: Path) -> None:
    for file, _ in tokens.FILES.values():
        shutil.copy2(seeded / file, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    done = seed(str(tmp_path), PIP_NO_INDEX="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_failed_seeding_is_only_a_warning(tmp_path: Path) -> None:
    done = seed(str(tmp_path / "files"), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 0
    assert "tokens are only estimated" in done.stderr


# --- what strangers send ---------------------------------------------------------------------------------------

HOSTILE = {
    "spaces": " " * 1_000_000,
    "newlines": "\n" * 4_000_000,
    "one word": "a" * 200_000,
    "digits": " 1" * 500_000,
    "ideographs": "漢字" * 300_000,
    "marks": "a\u0301" * 200_000,
    "half a pair": "\ud83d" * 100_000,
    "emoji": "😀" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "codellama"])
def test_hostile_texts_are_counted_quickly(tokenizers: Tokenizers, name: str, model: str) -> None:
    text = HOSTILE[name]
    began = time.process_time()
    found, exact = tokenizers.count(text, model)
    assert time.process_time() - began < 5.0, "seconds of CPU, on a machine that may be slow"
    assert not exact
    assert 0 < found <= len(text.encode("utf-8", "surrogatepass"))


@given(
    st.lists(
        st.tuples(st.sampled_from([" ", "\n", "a", "x1", "é", "漢", "\ud83d", "<|"]), st.integers(1, 5000))
    )
)
def test_counting_never_raises_and_is_bounded_by_bytes(
    tokenizers: Tokenizers, runs: list[tuple[str, int]]
) -> None:
    text = "".join(piece * times for piece, times in runs)
    for model in ("gpt-4o", "gpt-4"):
        found, _ = tokenizers.count(text, model)
        assert bool(text) <= found <= len(text.encode("utf-8", "surrogatepass"))


def test_a_text_without_long_runs_has_the_librarys_count(tokenizers: Tokenizers) -> None:
    text = "some words, and some more of them; " * 500
    encoding = tokenizers.encodings["o200k_base"]
    assert encoding is not None
    assert tokenizers.count(text, "gpt-4o") == (len(encoding.encode(text)), True)


def test_a_sampled_count_is_close_to_the_exact_count(tokenizers: Tokenizers) -> None:
    text = "some words, and some more of them; " * 50_000
    encoding = tokenizers.encodings["o200k_base"]
    assert encoding is not None
    exact = len(encoding.encode(text[:350_000])) * 5
    assert tokenizers.count(text, "gpt-4o")[0] == pytest.approx(exact, rel=0.02)


def test_the_counted_text_of_a_request_is_bounded() -> None:
    asked: list[int] = []

    def count(text: str) -> int:
        asked.append(len(text))
        return len(text)

    tally = tokens.Tally(count)
    assert sum(tally("x" * 1000) for _ in range(10_000)) == 10_000_000
    assert sum(asked) <= tokens.MAX_COUNTED_CHARACTERS
    huge = tokens.Tally(count)
    assert huge("y" * 10_000_000) == 10_000_000
    assert sum(asked) <= 2 * tokens.MAX_COUNTED_CHARACTERS
