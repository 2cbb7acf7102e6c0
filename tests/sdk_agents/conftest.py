"""What all tests have: the SDK as docs/clients.md sets it up, and what the server's tools were asked."""

import json
import logging
import os

import pytest
from agents import Runner, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def client():
    client = AsyncOpenAI(
        default_headers={"X-Talaria-Tool-Items": "mcp_call"},
        _strict_response_validation=True,
        max_retries=0,
        timeout=20,
    )
    set_default_openai_client(client)
    async with client:
        yield client


@pytest.fixture(params=os.environ["AGENTS"].split())
def model(request):
    """The name of an agent; one for each kind of upstream."""
    return request.param


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def run(request, client):
    """Runs an agent to its end, by one of the SDK's two ways."""

    async def run(agent, input, **more):
        if not request.param:
            return await Runner.run(agent, input, **more)
        result = Runner.run_streamed(agent, input, **more)
        async for _ in result.stream_events():
            pass
        return result

    return run


@pytest.fixture(autouse=True)
def no_complaints(caplog):
    yield
    complaints = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert complaints == []


@pytest.fixture
def tag(request):
    """A word of this test's own."""
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)


def calls_of(tag):
    """The calls of the server's tools that have the word: names and arguments."""
    with open(os.environ["MCP_LOG"]) as log:
        messages = [json.loads(line) for line in log]
    calls = [message["params"] for message in messages if message["method"] == "tools/call"]
    return [(call["name"], call["arguments"]) for call in calls if tag in json.dumps(call["arguments"])]


def answer_to(*outputs):
    """What the scripted model says in the end, when tools have said this."""
    return "Tools: " + ", ".join(sorted(outputs))


def outline(result):
    """The new items: what they are, and what they say."""
    return [line(item) for item in result.new_items]


def line(item):
    raw = item.raw_item
    if item.type == "message_output_item":
        return ("message", "".join(part.text for part in raw.content))
    if item.type == "tool_call_item" and raw.type == "mcp_call":
        return ("mcp_call", raw.name, raw.arguments, raw.output if raw.error is None else raw.error.content[0]["text"])
    if item.type == "tool_call_item":
        return (raw.type, raw.name, raw.arguments)
    if item.type == "tool_call_output_item":
        return (raw["type"], item.output)
    return (item.type,)


def usage_of(result):
    """Requests of the SDK, and tokens. The scripted model says 8 in and 3 out for each of its answers."""
    usage = result.context_wrapper.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    return (usage.requests, usage.input_tokens, usage.output_tokens)
