"""Streams: live, replayed, resumed, and through the SDK's helper."""

import asyncio

import openai
import pytest

ENDINGS = {
    "text": "response.completed",
    "annotations": "response.completed",
    "call the weather": "response.completed",
    "think in summary": "response.completed",
    "think aloud": "response.completed",
    "refuse": "response.completed",
    "fail": "response.failed",
    "run into the limit": "response.incomplete",
}


def text_of(events):
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


@pytest.mark.parametrize("question", ENDINGS)
def test_a_stream_is_the_same_live_and_replayed_from_every_event_on(client, ask, question):
    live = list(ask(question, stream=True))

    assert (live[0].type, live[-1].type) == ("response.created", ENDINGS[question])
    assert [event.sequence_number for event in live] == list(range(len(live)))
    id = live[0].response.id
    assert list(client.responses.retrieve(id, stream=True)) == live
    for event in live:
        after = event.sequence_number
        rest = list(client.responses.retrieve(id, stream=True, starting_after=after))
        assert rest == live[after + 1 :]
    assert client.responses.retrieve(id) == live[-1].response


@pytest.mark.parametrize("question", [q for q, end in ENDINGS.items() if end == "response.completed"])
def test_the_helper_follows_a_stream_and_finds_it_again(client, question):
    with client.responses.stream(model="agent", input=question) as stream:
        live = list(stream)
        final = stream.get_final_response()

    assert final.model_dump() == live[-1].response.model_dump()
    with client.responses.stream(response_id=final.id) as stream:
        assert list(stream) == live
    with client.responses.stream(response_id=final.id, starting_after=3) as stream:
        assert list(stream) == live[4:]


@pytest.mark.parametrize("question", [q for q, end in ENDINGS.items() if end != "response.completed"])
def test_the_helper_has_no_final_response_of_what_did_not_complete(client, question):
    with client.responses.stream(model="agent", input=question) as stream:
        with pytest.raises(RuntimeError, match="response.completed"):
            stream.get_final_response()


def test_a_failed_stream_says_why(ask):
    *_, last = ask("fail", stream=True)

    assert last.response.status == "failed"
    assert (last.response.error.code, last.response.error.message) == ("server_error", "The model tripped.")


def test_a_stream_is_read_by_the_async_client(async_client):
    async def run():
        async with async_client as client:
            stream = await client.responses.create(model="agent", input="text", stream=True)
            live = [event async for event in stream]
            async with client.responses.stream(response_id=live[0].response.id) as stream:
                return live, await stream.get_final_response()

    live, final = asyncio.run(run())

    assert text_of(live) == final.output_text == "Hello, you!"


def test_a_client_that_left_goes_on_where_it_was(client, ask):
    seen = []
    with ask("text", stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    id = seen[0].response.id

    after = seen[-1].sequence_number
    seen += client.responses.retrieve(id, stream=True, starting_after=after)

    assert text_of(seen) == "Hello, you!"
    assert list(client.responses.retrieve(id, stream=True)) == seen


def test_a_response_that_is_not_stored_is_streamed_and_gone(client, ask):
    events = list(ask("text", stream=True, store=False))

    assert text_of(events) == "Hello, you!"
    id = events[0].response.id
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(id, stream=True)


def test_a_response_in_the_background_is_polled_until_it_ended(client, ask):
    response = ask("text", background=True)

    assert (response.status, response.background) == ("queued", True)
    while response.status in ("queued", "in_progress"):
        response = client.responses.retrieve(response.id)
    assert (response.status, response.output_text) == ("completed", "Hello, you!")


def test_a_response_in_the_background_is_streamed(client, ask):
    events = list(ask("text", background=True, stream=True))

    lifecycle = [(event.type, event.response.status) for event in events if hasattr(event, "response")]
    assert lifecycle == [
        ("response.created", "queued"),
        ("response.queued", "queued"),
        ("response.in_progress", "in_progress"),
        ("response.completed", "completed"),
    ]
    assert list(client.responses.retrieve(events[0].response.id, stream=True)) == events


def test_a_response_that_is_deleted_ends_its_stream_as_cancelled(client, ask):
    with ask("never end", stream=True) as stream:
        events = iter(stream)
        id = next(events).response.id
        while next(events).type != "response.output_text.delta":
            pass

        client.responses.delete(id)

        *_, last = events
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(id)
