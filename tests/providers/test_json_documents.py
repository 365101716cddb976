"""JSON documents of every sort as pieces of streams and as whole answers: read as they are, or a failed attempt.

The documents are of the kinds of the public JSON test suite: valid ones, invalid ones, and those that every parser
decides for itself.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import read
from tests.support.dialogues import chunk, sse

OPENAI = ADAPTERS["openai_compatible"]
HERE = deployment(provider="openai_compatible")
STREAMED = chat(stream=True)

VALID = [
    *(b"[]", b"[ ]", b'[""]', b"[[]   ]", b"{}", b'{"a":"b"}', b'{"a":"b","a":"c"}', b'{"":0}', b'{"a":[]}'),
    *(b"[true]", b"[false]", b"[null]", b"[1,null,null,null,2]", b"[123e65]", b"[0e+1]", b"[0e1]", b"[ 4]"),
    *(b"[-0.000000000000000000001]", b"[20e1]", b"[-0]", b"[-123]", b"[-1]", b"[1E22]", b"[1E-2]", b"[1E+2]"),
    *(b"[123e45]", b"[123.456e78]", b"[1e-2]", b"[1e+2]", b"[123]", b"[123.456789]", b'["asd"]', b"[ 1 ]"),
    *(
        rb'["\u0060\u012a\u12AB"]',
        rb'["\uD801\udc37"]',
        rb'["\"\\\/\b\f\n\r\t"]',
        rb'["\\u0000"]',
        rb'["\""]',
    ),
    *(
        b'["a/*b*/c/*d//e"]',
        rb'["\\a"]',
        rb'["\\n"]',
        rb'["\u0012"]',
        rb'["\uFFFF"]',
        b'["asd "]',
        b'[ "asd"]',
    ),
    *(rb'["\uDBFF\uDFFF"]', rb'["new\u00A0line"]', '["\U0010ffff"]'.encode(), '["\uffff"]'.encode()),
    *(rb'["\u0000"]', rb'["\u002c"]', '["\u03c0"]'.encode(), '["\U0001bfff"]'.encode(), b'"asd "'),
    *(rb'["\uD834\uDd1e"]', rb'["\u0821"]', rb'["\u0123"]', '["\u2028"]'.encode(), '["\u2029"]'.encode()),
    *(rb'["\u0061\u30af\u30EA\u30b9"]', rb'["new\u000Aline"]', b'["\x7f"]', rb'["\uA66D"]', rb'["\u200B"]'),
    *(
        '["\u2342\u3248\u2342"]'.encode(),
        rb'["\u005C"]',
        rb'["\u0022"]',
        rb'["\uDBFF\uDFFE"]',
        b"false",
        b"42",
    ),
    *(b"-0.1", b"null", b'"asd"', b"true", b'""', b"[1\n]", b"[1]\n", b" [] ", b'{"a" :\t1}', b'{"a":\n"b"}'),
]
INVALID = [
    *(b"[1 true]", b'["": 1]', b'[""],', b"[,1]", b"[1,,2]", b'["x",,]', b'["x"]]', b'["",]', b'["x"', b"[x"),
    *(
        b"[3[4]]",
        b"[1:2]",
        b"[,]",
        b"[-]",
        b'[   , ""]',
        b'["a",\n4\n,1,',
        b"[1,]",
        b"[1,\n1\n,1",
        b"[{}",
        b"[*]",
    ),
    *(
        b"[fals]",
        b"[nul]",
        b"[tru]",
        b"[++1234]",
        b"[+1]",
        b"[+Inf]",
        b"[-01]",
        b"[-1.0.]",
        b"[-2.]",
        b"[-NaN]",
    ),
    *(
        b"[.-1]",
        b"[.2e-3]",
        b"[0.1.2]",
        b"[0.3e+]",
        b"[0.3e]",
        b"[0.e1]",
        b"[0E+]",
        b"[0E]",
        b"[1.0e+]",
        b"[1 000.0]",
    ),
    *(
        b"[1eE2]",
        b"[2.e+3]",
        b"[9.e+]",
        b"[Inf]",
        b"[NaN]",
        b"[\xef\xbc\x91]",
        b"[1+2]",
        b"[0x1]",
        b"[0x42]",
        b"[1a]",
    ),
    *(
        b"[Infinity]",
        b"[-Infinity]",
        b"[-foo]",
        b"[- 1]",
        b"[-012]",
        b"[-.123]",
        b"[-1x]",
        b"[1ea]",
        b"[1.]",
        b"[.123]",
    ),
    *(
        b"[012]",
        b'["x", truth]',
        b'{[: "x"}',
        b'{"x", null}',
        b'{"x"::"b"}',
        b'{key: "value"}',
        b'{"a":"a" 123}',
    ),
    *(
        b'{"a" b}',
        b'{:"b"}',
        b'{"a"',
        b'{"a":',
        b"{1:1}",
        b"{9999E9999:1}",
        b"{null:null,null:null}",
        b'{"id":0,,,,,}',
    ),
    *(
        b"{'a':0}",
        b'{"id":0,}',
        b'{"a":"b"}/**/',
        b'{"a":"b"}//',
        b'{"a":"b",,"c":"d"}',
        b'{a: "b"}',
        b'{"a":"a',
        b"{",
    ),
    *(b'{ "foo" : "bar", "a" }', b'{"a":"b"}#', b" ", b'["\\uD800\\', b'["\\uD800\\u"]', b'["\\uD800\\u1"]'),
    *(b'["\\uD800\\u1x"]', b"[\xc3\xa9]", b'["\\x00"]', b'["\\\\\\"]', b'["\\a"]', b'["\\"]', b'["\\u00A"]'),
    *(
        b'["\\uD834\\uDd"]',
        b'["\\uD800\\uD800\\x"]',
        b'["\\uqqqq"]',
        b'[\\u0020"asd"]',
        b"[\\n]",
        b'"',
        b"['x']",
    ),
    *(
        b'["a\x00a"]',
        b'["new\nline"]',
        b'["\t"]',
        b'"\\UA66D"',
        b'""x',
        b"<.>",
        b"[<null>]",
        b"[1]x",
        b"[1]]",
        b"[a",
    ),
    *(
        b"[True]",
        b"1]",
        b'{"x": true,',
        b"[][]",
        b"]",
        b"{}}",
        b'{"":',
        b"abc",
        b'["asd]',
        b"a\xc3\xa5",
        b"\xe2\x81\xa0",
    ),
    *(
        b"[" * 100_000,
        b'[{"":' * 50_000,
        b'["\\u{',
        b'{"asd":"asd"',
        b"[\x0c]",
        b"2@",
        b"{}}x",
        b"[\xe2\x81\xa0]",
    ),
]
DECIDED = [
    *(
        b"[123.456e-789]",
        b"[0.4e00669999999999999999999999999999999999999999999999]",
        b"[-1e+9999]",
        b"[1.5e+9999]",
    ),
    *(
        b"[-123123e100000]",
        b"[123123e100000]",
        b"[123123123123123123123123123123]",
        b"[100000000000000000000]",
    ),
    *(
        b'{"\\uDFAA":0}',
        b'["\\uDADA"]',
        b'["\\uD888\\u1234"]',
        b'["\xe6\x97\xa5\xd1\x88\xfa"]',
        b'["\\uD800\\n"]',
    ),
    *(
        b'["\\uDd1ea"]',
        b'["\\uD800\\uD800"]',
        b'["\\ud800"]',
        b'["\\ud800abc"]',
        b'["\xff"]',
        b'["\\uDd1e\\uD834"]',
    ),
    *(
        b'["\xe9"]',
        b'["\\uDFAA"]',
        b'["\x81"]',
        b'["\xf4\xbf\xbf\xbf"]',
        b'["\xc0\xaf"]',
        b'["\xfc\x83\xbf\xbf\xbf\xbf"]',
    ),
    *(
        b'["\xed\xa0\x80"]',
        b'["\xe0\xff"]',
        b"[" * 500 + b"]" * 500,
        b"\xef\xbb\xbf{}",
        b'\xff\xfe[\x00"\x00\xe9\x00"\x00]\x00',
    ),
]

BEFORE, AFTER = chunk({"role": "assistant", "content": "a"}), chunk({"content": "b"})
END = chunk({}, "stop")
MESSAGE: dict[str, Any] = {
    "index": 0,
    "message": {"role": "assistant", "content": "ab"},
    "finish_reason": "stop",
}


def lines(document: bytes) -> bytes:
    """As data of an event: a line for each of its own."""
    return b"".join(b"data: %s\n" % line for line in document.split(b"\n")) + b"\n"


def streamed(document: bytes) -> str:
    """What a stream says that has this piece in its middle. Raises `AttemptError`."""
    raw = sse(BEFORE) + lines(document) + sse(AFTER, END, b"[DONE]")
    events, complete = read(OPENAI, [raw], STREAMED, HERE)
    assert complete
    assert all(b"\n" not in event.body for event in events)
    return "".join(event.text for event in events)


def within(document: bytes) -> tuple[bytes, bytes]:
    """A chunk and a completion with the document as one of their fields."""
    piece = orjson.dumps(AFTER)[:-1] + b',"x":' + document + b"}"
    return piece, orjson.dumps({"id": "c", "choices": [MESSAGE]})[:-1] + b',"x":' + document + b"}"


def answered(body: bytes) -> str:
    event = OPENAI.parse_response(body, chat(), HERE)
    orjson.loads(event.body)
    return event.text


@each("document", VALID)
def test_a_valid_json_document_is_read_in_every_position(document: bytes) -> None:
    piece, body = within(document)
    raw = sse(BEFORE) + lines(piece) + sse(END, b"[DONE]")
    events, complete = read(OPENAI, [raw], STREAMED, HERE)
    assert complete
    assert "".join(event.text for event in events) == "ab"
    assert answered(body) == "ab"
    if isinstance(orjson.loads(document), dict):
        assert streamed(document) == "ab"
    else:
        with pytest.raises(AttemptError):
            streamed(document)
    with pytest.raises(AttemptError):
        answered(document)


@each("document", INVALID)
def test_an_invalid_json_document_fails_the_attempt_in_every_position(document: bytes) -> None:
    piece, body = within(document)
    for raw in (document, body):
        with pytest.raises(AttemptError):
            answered(raw)
    with pytest.raises(AttemptError):
        read(OPENAI, [sse(BEFORE) + lines(piece) + sse(END, b"[DONE]")], STREAMED, HERE)
    if document.strip():  # nothing at all is no piece
        with pytest.raises(AttemptError):
            streamed(document)


@each("document", DECIDED)
def test_an_ambiguous_json_document_is_read_completely_or_fails(document: bytes) -> None:
    piece, body = within(document)
    for read_one in (
        lambda: answered(body),
        lambda: "".join(
            event.text
            for event in read(OPENAI, [sse(BEFORE) + lines(piece) + sse(END, b"[DONE]")], STREAMED, HERE)[0]
        ),
    ):
        try:
            assert read_one() == "ab"
        except AttemptError:
            continue


@pytest.mark.parametrize("many", [b"[1" + b",1" * 2_100_000 + b"]", b"[{}" + b",{}" * 410_000 + b"]"])
def test_a_plain_answer_with_too_many_values_fails(many: bytes) -> None:
    with pytest.raises(AttemptError) as caught:
        answered(within(many)[1])
    assert caught.value.failure.reason == "too_many_parts"
