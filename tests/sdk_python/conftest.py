"""What all tests have: strict clients of the server that OPENAI_BASE_URL and OPENAI_API_KEY name."""

import pytest
from openai import AsyncOpenAI, OpenAI

STRICT = {"_strict_response_validation": True, "max_retries": 0, "timeout": 20}


@pytest.fixture
def client():
    with OpenAI(**STRICT) as client:
        yield client


@pytest.fixture
def async_client():
    return AsyncOpenAI(**STRICT)


@pytest.fixture
def ask(client):
    """Asks the model, and returns what the SDK makes of it: a response, or its events."""

    def ask(input, **more):
        return client.responses.create(model="agent", input=input, **more)

    return ask
