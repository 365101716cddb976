"""What is kept of an answer: its bytes alone, and only if it is complete and not too long."""

import orjson
import pytest

from codellama_proxy.cache.keeper import UNREADABLE, completion_to_keep
from codellama_proxy.cache.key import MAX_CACHED_BYTES
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import completion_event
from codellama_proxy.openai_format.folding import as_stream


def answer(text: str = "hi", finish_reason: str = "stop") -> Event:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    completion = {"object": "chat.completion", "model": "m", "choices": [choice]}
    return completion_event(completion, orjson.dumps(completion), text, None, "m")


@pytest.mark.parametrize("stream", [False, True])
def test_the_parsed_completion_does_not_stay_in_memory(stream: bool) -> None:
    event = answer()
    assert event.completion is not None
    kept = completion_to_keep(as_stream(event) if stream else [event], stream=stream)
    assert kept is not None
    assert kept.completion is None
    assert orjson.loads(kept.body) == event.completion


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "event", [answer(finish_reason="length"), answer(""), answer("x" * MAX_CACHED_BYTES)]
)
def test_incomplete_empty_and_long_answers_are_not_kept(event: Event, stream: bool) -> None:
    assert completion_to_keep(as_stream(event) if stream else [event], stream=stream) is None


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices": [1]}', b'{"choices": []}'])
def test_what_is_no_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(UNREADABLE):
        completion_to_keep([Event(body)], stream=True)
