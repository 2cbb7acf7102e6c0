"""Several turns, by each way in which the SDK goes on from what was said before."""

import pytest
from agents import Agent, OpenAIConversationsSession, SQLiteSession, function_tool
from conftest import answer_to, calls_of, outline


@function_tool
def weather(city: str) -> str:
    """Tells the weather."""
    return f"rain in {city}"


async def by_previous_response(run, agent, questions, client):
    results = []
    for question in questions:
        previous = results[-1].last_response_id if results else None
        results.append(await run(agent, question, previous_response_id=previous))
    return results


async def by_conversation(run, agent, questions, client):
    conversation = await client.conversations.create()
    return [await run(agent, question, conversation_id=conversation.id) for question in questions]


async def by_items(run, agent, questions, client):
    results, items = [], []
    for question in questions:
        items.append({"role": "user", "content": question})
        results.append(await run(agent, items))
        items = results[-1].to_input_list()
    return results


async def by_session_here(run, agent, questions, client):
    session = SQLiteSession("here")
    return [await run(agent, question, session=session) for question in questions]


async def by_session_there(run, agent, questions, client):
    session = OpenAIConversationsSession(openai_client=client)
    results = [await run(agent, question, session=session) for question in questions]
    kinds = [item.get("type") for item in await session.get_items()]
    assert kinds.count("message") == 2 * len(questions), kinds
    return results


WAYS = [by_previous_response, by_conversation, by_items, by_session_here, by_session_there]


@pytest.mark.parametrize("way", WAYS)
async def test_turns_with_tools_of_both_are_remembered(run, model, client, way, tag):
    agent = Agent(name="Assistant", model=model, tools=[weather])
    first = f"echo {tag} and fail then weather Oslo"
    questions = [first, f"add 1 2 and weather {tag}", "what did I ask first"]

    one, two, three = await way(run, agent, questions, client)

    assert one.final_output == answer_to(tag, "it did not work", "rain in Oslo")
    assert two.final_output == answer_to("3", f"rain in {tag}")
    assert outline(three) == [("message", first)]
    assert calls_of(tag) == [("echo", {"text": tag})]
