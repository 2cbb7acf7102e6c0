"""Refusals: which exception of the SDK they are, and what it says."""

import openai
import pytest


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": "text", "temperature": 3}, "temperature"),
        ({"input": "text", "max_output_tokens": 1}, "max_output_tokens"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": "text", "metadata": {"a": 1}}, "metadata.a"),
        ({"input": "text", "background": True, "store": False}, "background"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_names_the_parameter(client, asked, param, stream):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="agent", stream=stream, **asked)

    assert error.value.type == "invalid_request_error"
    assert error.value.param == param
    assert error.value.code
    assert error.value.request_id


def test_a_missing_input_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="agent")

    assert error.value.code == "missing_required_parameter"


def test_what_was_never_there_is_not_found(client, ask):
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_nothing")
    with pytest.raises(openai.NotFoundError) as error:
        ask("text", previous_response_id="resp_nothing")
    assert error.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("nobody")
    assert error.value.code == "model_not_found"


def test_a_failed_response_is_not_gone_on_from(ask):
    failed = ask("fail")

    with pytest.raises(openai.ConflictError) as error:
        ask("text", previous_response_id=failed.id)

    assert error.value.code == "previous_response_not_completed"
    assert error.value.response.headers["x-should-retry"] == "false"


def test_a_wrong_key_is_refused(client):
    stranger = client.with_options(api_key="wrong-0123456789abcdef")
    for call in (
        lambda: stranger.responses.create(model="agent", input="text"),
        lambda: stranger.responses.create(model="agent", input="text", stream=True),
        lambda: stranger.responses.retrieve("resp_nothing"),
        lambda: stranger.models.list(),
    ):
        with pytest.raises(openai.AuthenticationError) as error:
            call()
        assert error.value.code == "invalid_api_key"
