"""The Conversations API: the SDK makes, fills, pages, continues and forgets conversations."""

import pytest
from openai import ConflictError, NotFoundError


def said(text, role="user"):
    return {"type": "message", "role": role, "content": text}


def texts(items):
    return [item.content[0].text for item in items]


@pytest.fixture
def conversation(client):
    return client.conversations.create(metadata={"topic": "demo"}, items=[said("zero")])


def test_a_conversation_is_made_changed_and_forgotten(client, conversation):
    assert conversation.object == "conversation"
    assert conversation.metadata == {"topic": "demo"}
    changed = client.conversations.update(conversation.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    assert client.conversations.retrieve(conversation.id) == changed

    deleted = client.conversations.delete(conversation.id)

    assert (deleted.id, deleted.object, deleted.deleted) == (conversation.id, "conversation.deleted", True)
    with pytest.raises(NotFoundError, match="Conversation with id 'conv_.*' not found"):
        client.conversations.retrieve(conversation.id)


def test_a_conversation_may_be_made_of_nothing(client):
    assert client.conversations.create().metadata == {}
    assert client.conversations.create(items=[]).metadata == {}


def test_a_response_goes_on_with_the_items(client, ask, conversation):
    first = ask("text", conversation=conversation.id)
    assert first.conversation.id == conversation.id

    second = ask("what did I ask first", conversation={"id": conversation.id})

    assert second.output_text == "zero"
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert texts(items) == ["zero", "text", "Hello, you!", "what did I ask first", "zero"]
    newest_first = client.conversations.items.list(conversation.id)
    assert texts(newest_first.data) == texts(items)[::-1]


def test_items_are_added_read_and_taken_out(client, conversation):
    added = client.conversations.items.create(
        conversation.id,
        items=[
            said("one"),
            said("ein", role="assistant"),
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        ],
    )
    assert [item.type for item in added.data] == ["message", "message", "function_call", "function_call_output"]
    first = client.conversations.items.retrieve(added.data[0].id, conversation_id=conversation.id)
    assert first == added.data[0]

    left = client.conversations.items.delete(first.id, conversation_id=conversation.id)

    assert left.id == conversation.id
    with pytest.raises(NotFoundError):
        client.conversations.items.retrieve(first.id, conversation_id=conversation.id)
    assert len(list(client.conversations.items.list(conversation.id))) == 4


def test_a_busy_conversation_refuses_new_items(client, ask, conversation):
    active = ask("never end", conversation=conversation.id, background=True)

    with pytest.raises(ConflictError) as refused:
        client.conversations.items.create(conversation.id, items=[said("one")])

    assert refused.value.code == "conversation_response_not_completed"
    client.responses.cancel(active.id)
    client.conversations.items.create(conversation.id, items=[said("one")])
