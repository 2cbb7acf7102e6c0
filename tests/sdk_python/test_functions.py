"""Functions that the client runs: called by the model, answered in the next request."""

import pytest

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
USER = {"role": "user", "content": "call the weather"}


def output_of(call):
    assert (call.type, call.status, call.name) == ("function_call", "completed", "weather")
    assert call.arguments == '{"city":"Oslo"}'
    return {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}


def test_a_call_is_answered_after_the_previous_response(ask):
    called = ask([USER], tools=[WEATHER])
    assert called.status == "completed"
    assert called.tools[0].name == "weather"
    (call,) = called.output

    answered = ask([output_of(call)], tools=[WEATHER], previous_response_id=called.id)

    assert answered.output_text == "It rains."


@pytest.mark.parametrize("store", [True, False])
def test_a_call_is_answered_with_the_whole_history(ask, store):
    called = ask([USER], tools=[WEATHER], store=store)
    (call,) = called.output

    answered = ask([USER, call, output_of(call)], tools=[WEATHER], store=store)

    assert answered.output_text == "It rains."


def test_a_streamed_call_is_put_together(client):
    asked = {"model": "agent", "input": [USER], "tools": [WEATHER]}
    with client.responses.stream(**asked) as stream:
        deltas = [event for event in stream if event.type == "response.function_call_arguments.delta"]
        (call,) = stream.get_final_response().output

    assert deltas[-1].snapshot == '{"city":"Oslo"}'
    with client.responses.stream(
        model="agent",
        input=[USER, {**call.model_dump(exclude={"parsed_arguments"}), "type": "function_call"}, output_of(call)],
        tools=[WEATHER],
    ) as stream:
        assert stream.get_final_response().output_text == "It rains."
