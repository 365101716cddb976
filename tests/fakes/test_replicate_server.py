"""Replicate's own SDK understands our idea of Replicate: the fake that the proxy is tested against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import replicate
from replicate.exceptions import ReplicateError

from tests.support.dialects.loopback import Server, serving
from tests.support.dialects.replicate_server import KEY, VERSION, Predictions

LLAMA = "meta/meta-llama-3-8b-instruct"


@pytest.fixture
def predictions() -> Predictions:
    return Predictions()


@pytest.fixture
def server(predictions: Predictions) -> Iterator[Server]:
    with serving(predictions.answer) as one:
        predictions.origin = one.url
        yield one
        assert not one.refused


@pytest.fixture
def client(server: Server) -> Iterator[replicate.Client]:
    one = replicate.Client(api_token=KEY, base_url=server.url)
    yield one
    one._client.close()  # it has no public way


def test_the_sdk_waits_for_a_prediction(client: replicate.Client, server: Server) -> None:
    found = client.models.predictions.create(LLAMA, input={"prompt": "hi"}, wait=5)
    assert (found.status, found.output) == ("succeeded", ["You said: ", "hi"])
    assert server.asked[0].headers["prefer"] == "wait=5"
    assert server.body == {"input": {"prompt": "hi"}}


def test_the_sdk_polls_a_prediction(client: replicate.Client) -> None:
    client.poll_interval = 0.01
    found = client.predictions.create(version=VERSION, input={"prompt": "slow"})
    assert found.status == "starting"
    found.wait()
    assert found.output == ["You said: ", "slow"]
    assert found.metrics is not None
    assert found.metrics["output_token_count"] == 7


def test_the_sdk_streams_a_prediction(client: replicate.Client) -> None:
    found = client.models.predictions.create(LLAMA, input={"prompt": "hi"})
    heard = [(one.event.value, one.data) for one in found.stream()]
    assert heard == [("output", "You said: "), ("output", "hi"), ("done", "{}")]


def test_the_sdk_cancels_a_prediction(client: replicate.Client, predictions: Predictions) -> None:
    found = client.models.predictions.create(LLAMA, input={"prompt": "endless"})
    found.cancel()
    found.reload()
    assert found.status == "canceled"
    assert found.id in predictions.cancelled


def test_a_refusal_raises_the_sdks_error(client: replicate.Client) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create("nobody/nothing", input={"prompt": "hi"})
    assert caught.value.status == 404
