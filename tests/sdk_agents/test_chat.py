"""The SDK's other model, which speaks chat completions: of the server's tools it learns the answer only."""

import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, SQLiteSession, function_tool
from conftest import answer_to, calls_of, outline, usage_of


@function_tool
def weather(city: str) -> str:
    """Tells the weather."""
    return f"rain in {city}"


@pytest.fixture
def agent(client, model):
    chat = OpenAIChatCompletionsModel(model=model, openai_client=client)
    return Agent(name="Assistant", model=chat, tools=[weather], model_settings=ModelSettings(include_usage=True))


async def test_tools_of_the_server_do_not_show(run, agent, tag):
    result = await run(agent, f"echo {tag} and add 1 2")

    assert outline(result) == [("message", answer_to(tag, "3"))]
    assert calls_of(tag) == [("echo", {"text": tag})]
    assert usage_of(result) == (1, 16, 6)


async def test_functions_of_the_program_are_called(run, agent, tag):
    result = await run(agent, f"weather {tag}")

    assert outline(result) == [
        ("function_call", "weather", f'{{"city":"{tag}"}}'),
        ("function_call_output", f"rain in {tag}"),
        ("message", answer_to(f"rain in {tag}")),
    ]
    assert usage_of(result) == (2, 16, 6)


async def test_turns_are_remembered_by_the_program(run, agent, tag):
    session = SQLiteSession("here")

    first = await run(agent, f"echo {tag}", session=session)
    second = await run(agent, "weather Oslo", session=session)
    third = await run(agent, "what did I ask first", session=session)

    assert [result.final_output for result in (first, second, third)] == [
        answer_to(tag),
        answer_to("rain in Oslo"),
        f"echo {tag}",
    ]
    assert calls_of(tag) == [("echo", {"text": tag})]


async def test_in_a_session_the_server_remembers_what_its_tools_said(run, agent, tag):
    agent.model_settings = agent.model_settings.resolve(ModelSettings(extra_headers={"X-Hermes-Session-Id": tag}))

    result = await run(agent, f"echo {tag} then weather Oslo then add 1 2")

    assert result.final_output == answer_to(tag, "rain in Oslo", "3")
    assert calls_of(tag) == [("echo", {"text": tag})]
    assert usage_of(result) == (2, 32, 12)
