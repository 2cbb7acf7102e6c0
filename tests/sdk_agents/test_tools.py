"""Tools that the server runs and functions of the program, in one agent."""

from dataclasses import dataclass

import pytest
from agents import Agent, ModelBehaviorError, Runner, function_tool, handoff, set_default_openai_client
from conftest import answer_to, calls_of, outline, usage_of
from openai import AsyncOpenAI


@dataclass
class Weather:
    """A function that says where it was asked about."""

    cities: list

    def tool(self):
        @function_tool
        def weather(city: str) -> str:
            """Tells the weather."""
            self.cities.append(city)
            return f"rain in {city}"

        return weather


@pytest.fixture
def weather():
    return Weather([])


async def test_tools_of_the_server_show_as_calls_that_are_done(run, model, tag):
    agent = Agent(name="Assistant", model=model)

    result = await run(agent, f"echo {tag} then add 1 2")

    assert result.final_output == answer_to(tag, "3")
    assert outline(result) == [
        ("mcp_call", "echo", f'{{"text":"{tag}"}}', tag),
        ("mcp_call", "add", '{"a":1,"b":2}', "3"),
        ("message", answer_to(tag, "3")),
    ]
    assert calls_of(tag) == [("echo", {"text": tag})]
    # One response for the SDK, three answers of the model.
    assert usage_of(result) == (1, 24, 9)
    assert result.last_response_id.startswith("resp_")


async def test_calls_side_by_side_are_all_there(run, model, tag):
    agent = Agent(name="Assistant", model=model)

    result = await run(agent, f"echo {tag} and add 1 2 and fail")

    assert result.final_output == answer_to(tag, "3", "it did not work")
    assert outline(result) == [
        ("mcp_call", "echo", f'{{"text":"{tag}"}}', tag),
        ("mcp_call", "add", '{"a":1,"b":2}', "3"),
        ("mcp_call", "fail", "{}", "it did not work"),
        ("message", answer_to(tag, "3", "it did not work")),
    ]
    assert calls_of(tag) == [("echo", {"text": tag})]
    assert usage_of(result) == (1, 16, 6)


async def test_functions_of_the_program_are_called(run, model, weather):
    agent = Agent(name="Assistant", model=model, tools=[weather.tool()])

    result = await run(agent, "weather Oslo")

    assert outline(result) == [
        ("function_call", "weather", '{"city":"Oslo"}'),
        ("function_call_output", "rain in Oslo"),
        ("message", answer_to("rain in Oslo")),
    ]
    assert weather.cities == ["Oslo"]
    assert usage_of(result) == (2, 16, 6)


@pytest.mark.parametrize("more", [{}, {"auto_previous_response_id": True}], ids=["items", "previous"])
@pytest.mark.parametrize("order", ["then", "and"])
async def test_tools_of_both_take_their_turns(run, model, weather, order, more, tag):
    agent = Agent(name="Assistant", model=model, tools=[weather.tool()])

    result = await run(agent, f"echo {tag} {order} weather Oslo then add 1 2", **more)

    calls = [item for item in outline(result) if item[0] in ("mcp_call", "function_call")]
    assert calls == [
        ("mcp_call", "echo", f'{{"text":"{tag}"}}', tag),
        ("function_call", "weather", '{"city":"Oslo"}'),
        ("mcp_call", "add", '{"a":1,"b":2}', "3"),
    ]
    assert result.final_output == answer_to(tag, "rain in Oslo", "3")
    assert weather.cities == ["Oslo"]
    assert calls_of(tag) == [("echo", {"text": tag})]
    answers = {"then": 4, "and": 3}[order]
    assert usage_of(result) == (2, 8 * answers, 3 * answers)


async def test_a_picture_of_a_tool_is_only_named_in_a_call_of_this_shape(run, model):
    agent = Agent(name="Assistant", model=model)

    result = await run(agent, "image")

    said = "a dot\n[an image, which this item cannot hold]"
    assert outline(result) == [("mcp_call", "image", "{}", said), ("message", answer_to(said))]


async def test_a_stream_tells_of_the_calls_before_the_answer(client, model, tag):
    agent = Agent(name="Assistant", model=model)

    result = Runner.run_streamed(agent, f"echo {tag}")
    events = [event async for event in result.stream_events()]

    items = [event.name for event in events if event.type == "run_item_stream_event"]
    assert items == ["tool_called", "message_output_created"]
    raw = [event.data for event in events if event.type == "raw_response_event"]
    told = [data.type for data in raw if "mcp_call" in data.type]
    assert told == [
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
    ]
    deltas = [data.delta for data in raw if data.type == "response.output_text.delta"]
    assert ("".join(deltas), len(deltas)) == (answer_to(tag), 2)


async def test_an_agent_hands_over_to_another(run, model, tag):
    poet = Agent(name="poet", model=model, instructions="Rhyme.")
    agent = Agent(name="Assistant", model=model, handoffs=[handoff(poet)])

    result = await run(agent, f"transfer_to_poet then echo {tag}")

    assert result.last_agent is poet
    assert result.final_output == answer_to(tag, '{"assistant": "poet"}')
    assert calls_of(tag) == [("echo", {"text": tag})]
    assert usage_of(result) == (2, 24, 9)


async def test_without_the_header_the_sdk_takes_the_server_s_calls_for_its_own(model, tag):
    agent = Agent(name="Assistant", model=model)

    async with AsyncOpenAI() as client:
        set_default_openai_client(client)
        with pytest.raises(ModelBehaviorError, match="Tool echo not found in agent Assistant"):
            await Runner.run(agent, f"echo {tag}")
