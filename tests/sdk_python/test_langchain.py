"""LangChain's ChatOpenAI, on chat completions and on responses."""

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

# How ChatOpenAI asks: by which API, and whether it asks for a stream even where the caller wants a whole answer.
WAYS = [
    {"use_responses_api": False},
    {"use_responses_api": False, "streaming": True},
    {"use_responses_api": True},
    {"use_responses_api": True, "streaming": True},
]


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return "rain"


def model(**more):
    return ChatOpenAI(model="agent", max_retries=0, timeout=20, stream_usage=True, **more)


def text_of(message):
    return message.text if isinstance(message.text, str) else message.text()


def whole(chunks):
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_comes_whole_with_its_usage(way):
    answer = model(**way).invoke([SystemMessage("Be brief."), HumanMessage("text")])

    assert text_of(answer) == "Hello, you!"
    assert answer.usage_metadata["total_tokens"] == 11


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_comes_in_pieces(way):
    chunks = list(model(**way).stream("text"))

    assert [text for chunk in chunks if (text := text_of(chunk))] == ["Hel", "lo, ", "you!"]
    assert whole(chunks).usage_metadata["total_tokens"] == 11


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_tool_is_called_and_its_result_read(way):
    bound = model(**way).bind_tools([weather])
    question = HumanMessage("call the weather")

    called = bound.invoke([question])

    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert text_of(bound.invoke([question, called, result])) == "It rains."


@pytest.mark.parametrize("way", WAYS)
def test_a_call_comes_in_pieces(way):
    called = whole(list(model(**way).bind_tools([weather]).stream("call the weather")))

    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})


@pytest.mark.parametrize("way", WAYS)
def test_structured_output_is_read(way):
    schema = {
        "title": "weather",
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
        "required": ["city", "degrees"],
        "additionalProperties": False,
    }
    structured = model(**way).with_structured_output(schema, method="json_schema", strict=True)

    assert structured.invoke("the city as json") == {"city": "Oslo", "degrees": -3}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_chat_goes_on_from_its_previous_response(streaming):
    chat = model(use_responses_api=True, use_previous_response_id=True, streaming=streaming)
    messages = [HumanMessage("text")]
    messages.append(chat.invoke(messages))
    assert messages[-1].response_metadata["id"].startswith("resp_")

    messages.append(HumanMessage("what did I ask first"))
    answer = chat.invoke(messages)

    assert text_of(answer) == "text"


def test_a_chat_goes_on_from_its_previous_response_by_its_id():
    chat = model(use_responses_api=True)
    first = chat.invoke("text")

    answer = chat.invoke("what did I ask first", previous_response_id=first.response_metadata["id"])

    assert text_of(answer) == "text"


def test_reasoning_is_there_in_summary():
    chat = model(use_responses_api=True, reasoning={"effort": "low", "summary": "auto"}, output_version="responses/v1")

    answer = chat.invoke("think in summary")

    (reasoning,) = [block for block in answer.content if block["type"] == "reasoning"]
    assert [part["text"] for part in reasoning["summary"]] == ["First this."]
    assert text_of(answer) == "Thought."
