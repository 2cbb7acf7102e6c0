"""Chat completions: created, streamed, with functions, as the SDK's helpers read them."""

import openai
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class City(BaseModel):
    city: str
    degrees: int


def saying(text):
    return {"model": "agent", "messages": [{"role": "user", "content": text}]}


def test_a_completion_is_whole(client):
    answer = client.chat.completions.create(**saying("text"))

    (choice,) = answer.choices
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "agent")
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello, you!")
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_chunks_with_one_head(client):
    chunks = list(client.chat.completions.create(**saying("text"), stream=True))

    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, you!"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(client):
    asked = saying("text") | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(**asked)

    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
    assert last.choices == []
    assert last.usage.total_tokens > 0


def test_the_stream_helper_puts_the_answer_together(client):
    with client.chat.completions.stream(**saying("text")) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()

    # The first delta is the empty one beside the role.
    assert kinds.count("content.delta") == 4
    assert kinds.count("content.done") == 1
    assert answer.choices[0].message.content == "Hello, you!"


def test_a_function_is_called_and_answered(client):
    asked = saying("call the weather") | {"tools": [WEATHER]}
    called = client.chat.completions.create(**asked).choices[0]
    assert called.finish_reason == "tool_calls"
    (call,) = called.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert call.function.arguments == '{"city":"Oslo"}'

    asked["messages"] += [
        called.message,
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    answered = client.chat.completions.create(**asked)

    assert answered.choices[0].message.content == "It rains."


def test_a_streamed_call_is_put_together_by_the_helper(client):
    with client.chat.completions.stream(**saying("call the weather"), tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        (call,) = stream.get_final_completion().choices[0].message.tool_calls

    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert call.function.arguments == '{"city":"Oslo"}'
    assert call.function.parsed_arguments == {"city": "Oslo"}


def test_structured_output_is_parsed(client):
    answer = client.chat.completions.parse(**saying("the city as json"), response_format=City)

    assert answer.choices[0].message.parsed == City(city="Oslo", degrees=-3)


def test_thoughts_are_beside_the_content(client):
    message = client.chat.completions.create(**saying("think in summary")).choices[0].message

    assert (message.content, message.reasoning_content) == ("Thought.", "First this.")


def test_a_refusal_is_no_content(client):
    message = client.chat.completions.create(**saying("refuse")).choices[0].message

    assert (message.content, message.refusal) == (None, "I'd rather not.")


def test_an_answer_that_is_cut_off_is_no_error(client):
    chunks = list(client.chat.completions.create(**saying("run into the limit"), stream=True))

    assert chunks[-1].choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**saying("run into the limit"), response_format=City)


def test_a_stream_that_fails_raises_after_what_it_said(client):
    said = ""
    with pytest.raises(openai.APIError, match="The model tripped."):
        for chunk in client.chat.completions.create(**saying("fail"), stream=True):
            said += chunk.choices[0].delta.content or ""

    assert said == "So f"


def test_a_session_is_continued_and_named(client):
    session = {"X-Hermes-Session-Id": "sdk-chat"}
    chats = client.with_options(default_headers=session).chat.completions.with_raw_response
    first = chats.create(**saying("text"))
    second = chats.create(**saying("what did I ask first"))

    assert first.headers["x-hermes-session-id"] == "sdk-chat"
    assert second.parse().choices[0].message.content == "text"


def test_a_key_makes_two_requests_one(client):
    keyed = {"extra_headers": {"Idempotency-Key": "sdk-chat-key"}}
    first = client.chat.completions.create(**saying("text"), **keyed)
    again = client.chat.completions.create(**saying("text"), **keyed)

    assert again == first
    with pytest.raises(openai.ConflictError):
        client.chat.completions.create(**saying("refuse"), **keyed)


def test_bad_requests_name_the_place(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**saying("text"), n=2)

    assert (refused.value.code, refused.value.param) == ("unsupported_value", "n")
