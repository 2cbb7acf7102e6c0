"""Tools that the server runs when a person has agreed."""

import pytest
from agents import Agent, HostedMCPTool, OpenAIResponsesModel
from conftest import answer_to, calls_of

# The SDK asks for approvals of servers only that its agent names.
TOOL = HostedMCPTool(tool_config={"type": "mcp", "server_label": "scripted"})


class Model(OpenAIResponsesModel):
    """The agent has the server by its settings; the request must not name it."""

    async def get_response(self, *positional, **named):
        return await super().get_response(*own(positional), **own(named))

    async def stream_response(self, *positional, **named):
        async for event in super().stream_response(*own(positional), **own(named)):
            yield event


def own(arguments):
    """The same arguments, but for the tool in the lists of tools."""
    if isinstance(arguments, dict):
        return dict(zip(arguments, own(arguments.values())))
    return [[tool for tool in value if tool is not TOOL] if isinstance(value, list) else value for value in arguments]


@pytest.mark.parametrize("approved", [True, False])
async def test_a_call_is_made_when_a_person_has_agreed_and_only_then(run, client, approved, tag):
    agent = Agent(name="Assistant", model=Model("careful", openai_client=client), tools=[TOOL])

    asked = await run(agent, f"once_effect {tag}")

    (question,) = asked.interruptions
    assert (question.name, calls_of(tag)) == ("once_effect", [])
    state = asked.to_state()
    if approved:
        state.approve(question)
    else:
        state.reject(question)
    answered = await run(agent, state)

    assert calls_of(tag) == ([("once_effect", {"text": tag})] if approved else [])
    assert (answered.final_output == answer_to("done")) == approved
