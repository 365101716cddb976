"""Streams of the Responses API whose events name their items wrongly, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format import folding
from codellama_proxy.providers.openai.responses_items import MAX_ITEMS
from codellama_proxy.providers.registry import adapter_of
from tests.providers.test_mutated_answers import check_body, check_both_forms
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import read as read_by_client
from tests.support.dialects import responses
from tests.support.frames import frames
from tests.support.mutations import mutated, mutated_stream

CODEX = deployment(provider="openai", model="gpt-5.1-codex-max", relays=frozenset({"responses"}))
ITEMS = (
    responses.reasoning("First thought", "sealed"),
    responses.message("Some text."),
    responses.function_call("get_weather", '{"city": "Oslo"}'),
    responses.function_call("get_time", '{"zone": "UTC"}', 1),
    responses.message("More text.", 1),
)
Edit = Callable[[dict[str, Any]], Mapping[str, Any]]


def read(stream: bytes) -> list[Event]:
    request, state, events = chat(stream=True), None, []
    adapter = adapter_of(request, CODEX)
    for frame in frames(stream):
        state, more = adapter.parse_stream(state, frame, request, CODEX)
        events += more
    assert state is not None
    assert state.complete
    return events


def message(stream: bytes) -> dict[str, Any]:
    """The message of a stream, folded."""
    whole = folding.as_whole(read(stream)).completion
    assert whole is not None
    return whole["choices"][0]["message"]  # type: ignore[no-any-return]  # JSON


def without(*names: str) -> Edit:
    return lambda event: {name: value for name, value in event.items() if name not in names}


def with_index(index: Any) -> Edit:
    return lambda event: {**event, "output_index": index} if "output_index" in event else event


def of_pieces(edit: Edit) -> Edit:
    """The edit of events with a piece of an item, not of those with a whole item."""
    return lambda event: edit(event) if "item" not in event else event


def with_other_ids(event: dict[str, Any]) -> Mapping[str, Any]:
    """Other ids in whole items than in their pieces."""
    return (
        {**event, "item": {**event["item"], "id": f"other_{event['item']['id']}"}}
        if "item" in event
        else event
    )


def without_ids(event: dict[str, Any]) -> Mapping[str, Any]:
    found = without("item_id")(event)
    return {**found, "item": without("id", "call_id")(found["item"])} if "item" in found else found


def both(first: Edit, second: Edit) -> Edit:
    return lambda event: second(dict(first(event)))


EDITS: tuple[Edit, ...] = (
    without("output_index"),
    of_pieces(without("output_index")),
    with_index(0),
    with_index(9),
    with_index("0"),
    with_index(-1),
    of_pieces(with_index(0)),
    of_pieces(with_index(9)),
    without("item_id"),
    with_other_ids,
    without_ids,
    of_pieces(without("item_id", "output_index")),
    both(of_pieces(without("item_id")), of_pieces(with_index(9))),
    both(of_pieces(without("item_id")), of_pieces(with_index(0))),
    both(of_pieces(without("output_index")), with_other_ids),
    both(without("output_index"), without_ids),
)


def edited(edit: Edit, *left_out: str) -> bytes:
    pieces = [edit(piece) for piece in responses.pieces(*ITEMS) if piece["type"] not in left_out]
    return responses.events(*responses.begun(), *pieces, responses.ended(ITEMS))


EXPECTED = message(responses.stream(*ITEMS))


def test_a_regular_stream() -> None:
    assert EXPECTED["content"] == "Some text.More text."
    assert EXPECTED["reasoning_content"] == "First thought"
    arguments = [call["function"]["arguments"] for call in EXPECTED["tool_calls"]]
    assert arguments == ['{"city": "Oslo"}', '{"zone": "UTC"}']


@each("edit", EDITS)
def test_texts_and_arguments_come_once(edit: Edit) -> None:
    found = message(edited(edit))
    assert without("tool_calls")(found) == without("tool_calls")(EXPECTED)
    functions = [call["function"] for call in found["tool_calls"]]
    assert functions == [call["function"] for call in EXPECTED["tool_calls"]]


@each("edit", (dict, without("output_index"), with_index(0), without("item_id"), with_other_ids))
def test_items_may_come_only_in_pieces_or_only_complete(edit: Edit) -> None:
    done = {"response.output_item.done"}
    deltas = {piece["type"] for piece in responses.pieces(*ITEMS)} - done - {"response.output_item.added"}
    for left_out in (done, {"response.output_item.added", *deltas}, deltas):
        found = message(edited(edit, *left_out))
        assert found["content"] == EXPECTED["content"]
        assert [call["function"] for call in found["tool_calls"]] == [
            call["function"] for call in EXPECTED["tool_calls"]
        ]


def test_a_text_and_a_refusal_of_one_message_are_both_shown() -> None:
    item = responses.message("Hm. ")
    whole = {**item, "content": [*item["content"], {"type": "refusal", "refusal": "No."}]}
    pieces = responses.pieces(item)[:-1]
    found = message(responses.events(*responses.begun(), *pieces, responses.ended((whole,))))
    assert (found["content"], found["refusal"]) == ("Hm. ", "No.")


@each("content", ("Some text.", {"type": "output_text", "text": "Some text."}, ["Some ", "text."]))
def test_content_that_is_no_list_of_parts(content: Any) -> None:
    item = {**responses.message(""), "content": content}
    thought = {**responses.reasoning("", ""), "summary": "A thought"}
    found = message(responses.events(*responses.begun(), responses.ended((thought, item))))
    assert (found["content"], found["reasoning_content"]) == ("Some text.", "A thought")
    request = chat()
    event = adapter_of(request, CODEX).parse_response(responses.whole(item), request, CODEX)
    assert event.text == "Some text."


def test_content_of_another_type_is_a_failure() -> None:
    request = chat()
    for content in (7, [7], True):
        item = {**responses.message(""), "content": content}
        with pytest.raises(AttemptError) as failed:
            adapter_of(request, CODEX).parse_response(responses.whole(item), request, CODEX)
        assert failed.value.failure.cls == "disguised"


@each("name", ("cancelled", "expired", "superseded"))
def test_every_other_end_is_a_failure_with_its_usage(name: str) -> None:
    with pytest.raises(AttemptError) as failed:
        read(responses.events(*responses.begun(), *responses.pieces(ITEMS[1]), responses.ended((), name)))
    assert (failed.value.failure.cls, failed.value.failure.usage) == (
        "disguised",
        (20, 7, 4, 3, 2, 0, (), ""),
    )


def test_an_end_with_another_name_is_one_by_its_status() -> None:
    end = {**responses.ended(ITEMS), "type": "response.done"}
    assert message(responses.events(*responses.begun(), end))["content"] == EXPECTED["content"]
    begun = responses.begun(status="completed")
    assert message(responses.events(*begun, *responses.pieces(ITEMS[1]), end))["content"]


def test_too_many_items_are_a_failure() -> None:
    items = [responses.message("x", number) for number in range(MAX_ITEMS + 1)]
    with pytest.raises(AttemptError):
        read(responses.events(*responses.begun(), responses.ended(items)))


@settings(max_examples=150)
@given(mutated_stream(responses.stream(*ITEMS)))
def test_a_mutated_stream_is_read_or_fails(raw: bytes) -> None:
    request = chat(stream=True, include_usage=True)
    try:
        events, _ = read_by_client(adapter_of(request, CODEX), [raw], request, CODEX)
    except AttemptError:
        return
    check_both_forms(events, "delta")


@settings(max_examples=150)
@given(mutated(orjson.loads(responses.whole(*ITEMS))))
def test_a_mutated_answer_is_read_or_fails(body: bytes) -> None:
    request = chat()
    try:
        event = adapter_of(request, CODEX).parse_response(body, request, CODEX)
    except AttemptError:
        return
    check_body(event.body, "message")
