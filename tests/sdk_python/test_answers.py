"""Whole responses: created, read again, deleted, continued."""

import asyncio

import openai
import pytest
from pydantic import BaseModel


def test_a_response_is_created_and_read_again(client, ask):
    response = ask("text", metadata={"who": "me"}, instructions="Be brief.")

    assert response.output_text == "Hello, you!"
    assert (response.status, response.error) == ("completed", None)
    assert (response.metadata, response.instructions) == ({"who": "me"}, "Be brief.")
    assert response.usage.total_tokens == 11
    assert response._request_id
    assert client.responses.retrieve(response.id) == response


def test_a_response_is_created_by_the_async_client(async_client):
    async def run():
        async with async_client as client:
            response = await client.responses.create(model="agent", input="text")
            return response, await client.responses.retrieve(response.id)

    response, again = asyncio.run(run())

    assert response.output_text == "Hello, you!"
    assert again == response


def test_a_deleted_response_is_gone(client, ask):
    response = ask("text")

    client.responses.delete(response.id)

    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError) as error:
            call(response.id)
        assert error.value.type == "invalid_request_error"
        assert error.value.body["message"] == f"Response not found: {response.id}"


def test_a_response_goes_on_from_the_one_before(ask):
    first = ask("text")
    second = ask("refuse", previous_response_id=first.id)

    third = ask("what did I ask first", previous_response_id=second.id)

    assert third.previous_response_id == second.id
    assert third.output_text == "text"


def test_a_reasoning_summary_is_there(ask):
    reasoning, message = ask("think in summary").output

    assert (reasoning.type, message.type) == ("reasoning", "message")
    assert [part.text for part in reasoning.summary] == ["First this."]
    assert message.content[0].text == "Thought."


def test_raw_reasoning_is_there(ask):
    reasoning, message = ask("think aloud").output

    assert [part.text for part in reasoning.content] == ["Hm, well."]
    assert message.content[0].text == "Said."


def test_a_refusal_is_no_text(ask):
    response = ask("refuse")

    assert response.status == "completed"
    assert response.output_text == ""
    (part,) = response.output[0].content
    assert (part.type, part.refusal) == ("refusal", "I'd rather not.")


def test_citations_are_there(ask):
    (part,) = ask("annotations").output[0].content

    (citation,) = part.annotations
    assert (part.text, citation.url) == ("Cited", "https://example.org/")


def test_a_failure_says_why(ask):
    response = ask("fail")

    assert response.status == "failed"
    assert (response.error.code, response.error.message) == ("server_error", "The model tripped.")


def test_a_response_that_ran_into_the_limit_has_what_there_was(ask):
    response = ask("run into the limit", max_output_tokens=16)

    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "Once upon"


class Weather(BaseModel):
    city: str
    degrees: int


def test_an_answer_is_parsed_into_a_model(client):
    response = client.responses.parse(model="agent", input="the city as json", text_format=Weather)

    assert response.output_parsed == Weather(city="Oslo", degrees=-3)
    assert response.text.format.type == "json_schema"


def test_a_streamed_answer_is_parsed_into_a_model(client):
    asked = {"model": "agent", "input": "the city as json", "text_format": Weather}
    with client.responses.stream(**asked) as stream:
        response = stream.get_final_response()

    assert response.output_parsed == Weather(city="Oslo", degrees=-3)


def test_the_agents_are_the_models(client):
    assert [model.id for model in client.models.list()] == ["agent"]
    assert client.models.retrieve("agent").object == "model"
