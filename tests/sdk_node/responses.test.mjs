// Whole responses: created, read again, continued, stopped, deleted, refused.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';

import { WEATHER, all, ask, client } from './client.mjs';

test('a response is created and read again', async () => {
  const response = await ask('text', { metadata: { who: 'me' }, instructions: 'Be brief.' });

  assert.equal(response.output_text, 'Hello, you!');
  assert.equal(response.status, 'completed');
  assert.deepEqual(response.metadata, { who: 'me' });
  assert.equal(response.usage.total_tokens, 11);
  assert.ok(response._request_id);
  assert.deepEqual({ ...(await client.responses.retrieve(response.id)) }, { ...response });
});

test('a response goes on from the one before', async () => {
  const first = await ask('text');
  const second = await ask('refuse', { previous_response_id: first.id });

  const third = await ask('what did I ask first', { previous_response_id: second.id });

  assert.equal(third.previous_response_id, second.id);
  assert.equal(third.output_text, 'text');
});

test('what a response was made from is listed page by page', async () => {
  const first = await ask('text');
  const second = await ask('what did I ask first', { previous_response_id: first.id });

  const items = await all(client.responses.inputItems.list(second.id, { order: 'asc', limit: 1 }));

  const texts = items.map((item) => item.content.map((part) => part.text).join(''));
  assert.deepEqual(texts, ['text', 'Hello, you!', 'what did I ask first']);
});

test('a call is answered after the previous response', async () => {
  const called = await ask('call the weather', { tools: [WEATHER] });
  const [call] = called.output;
  assert.deepEqual([call.type, call.name, call.arguments], ['function_call', 'weather', '{"city":"Oslo"}']);

  const output = { type: 'function_call_output', call_id: call.call_id, output: 'rain' };
  const answered = await ask([output], { tools: [WEATHER], previous_response_id: called.id });

  assert.equal(answered.output_text, 'It rains.');
});

test('the parse helper reads structured output', async () => {
  const format = {
    type: 'json_schema',
    name: 'weather',
    strict: true,
    schema: {
      type: 'object',
      properties: { city: { type: 'string' }, degrees: { type: 'number' } },
      required: ['city', 'degrees'],
      additionalProperties: false,
    },
  };

  const body = { model: 'agent', input: 'the city as json', text: { format } };
  const parsed = await client.responses.parse(body);

  assert.deepEqual(JSON.parse(parsed.output_text), { city: 'Oslo', degrees: -3 });
});

test('a response in the background is polled until it ended', async () => {
  let response = await ask('text', { background: true });

  assert.deepEqual([response.status, response.background], ['queued', true]);
  while (response.status === 'queued' || response.status === 'in_progress') {
    response = await client.responses.retrieve(response.id);
  }
  assert.deepEqual([response.status, response.output_text], ['completed', 'Hello, you!']);
});

test('a response in the background is cancelled, once and again', async () => {
  const { id } = await ask('never end', { background: true });

  assert.equal((await client.responses.cancel(id)).status, 'cancelled');
  assert.equal((await client.responses.cancel(id)).status, 'cancelled');
  assert.equal((await client.responses.retrieve(id)).status, 'cancelled');
});

test('a deleted response is gone', async () => {
  const { id } = await ask('text');

  await client.responses.delete(id);

  const gone = (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.error.message, `Response not found: ${id}`);
    return true;
  };
  await assert.rejects(client.responses.retrieve(id), gone);
  await assert.rejects(client.responses.delete(id), gone);
});

test('a bad request names the parameter', async () => {
  for (const stream of [false, true]) {
    await assert.rejects(ask('text', { temperature: 3, stream }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.deepEqual([error.type, error.param], ['invalid_request_error', 'temperature']);
      assert.ok(error.code && error.requestID);
      return true;
    });
  }
});

test('a wrong key is refused', async () => {
  const stranger = client.withOptions({ apiKey: 'wrong-0123456789abcdef' });

  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test('the models are listed', async () => {
  const models = await all(client.models.list());

  assert.deepEqual(
    models.map((model) => [model.id, model.object]),
    [['agent', 'model']],
  );
});

test('the same key and request are one response', async () => {
  // The SDK sends its option `idempotencyKey` only where it knows a header for it, and OpenAI's client knows none.
  const keyed = client.withOptions({});
  keyed.idempotencyHeader = 'Idempotency-Key';
  const body = { model: 'agent', input: 'text' };
  const options = { idempotencyKey: 'node-responses' };

  const first = await keyed.responses.create(body, options);
  const { data: again, response: answer } = await keyed.responses.create(body, options).withResponse();

  assert.deepEqual({ ...again }, { ...first });
  assert.equal(answer.headers.get('idempotency-replayed'), 'true');
  await assert.rejects(keyed.responses.create({ ...body, input: 'refuse' }, options), (error) => {
    assert.ok(error instanceof OpenAI.ConflictError);
    assert.equal(error.code, 'idempotency_key_conflict');
    return true;
  });
});
