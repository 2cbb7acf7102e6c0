// Chat completions: whole, streamed, and through the SDK's helpers.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';

import { WEATHER, all, client } from './client.mjs';

const { type, ...definition } = WEATHER;
const TOOLS = [{ type, function: definition }];

function chat(content, more = {}) {
  return { model: 'agent', messages: [{ role: 'user', content }], ...more };
}

test('a chat is answered', async () => {
  const messages = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'text' },
  ];
  const completion = await client.chat.completions.create({ model: 'agent', messages });

  assert.match(completion.id, /^chatcmpl-/);
  assert.deepEqual([completion.object, completion.model], ['chat.completion', 'agent']);
  const [choice] = completion.choices;
  assert.deepEqual([choice.message.role, choice.message.content], ['assistant', 'Hello, you!']);
  assert.equal(choice.finish_reason, 'stop');
  assert.equal(completion.usage.total_tokens, 11);
});

test('a chat is streamed, with its usage as the last chunk where that is asked for', async () => {
  const asked = chat('text', { stream: true, stream_options: { include_usage: true } });
  const chunks = await all(await client.chat.completions.create(asked));

  const last = chunks.pop();
  assert.deepEqual([last.choices, last.usage.total_tokens], [[], 11]);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), 'Hello, you!');
  assert.deepEqual(
    chunks.map((chunk) => chunk.choices[0].finish_reason).filter((reason) => reason),
    ['stop'],
  );
  assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk' && chunk.id === last.id));
});

for (const question of ['text', 'think aloud', 'refuse', 'run into the limit']) {
  test(`the helper puts a stream together as it is whole: ${question}`, async () => {
    const whole = await client.chat.completions.create(chat(question));
    const streamed = await client.chat.completions.stream(chat(question)).finalChatCompletion();

    assert.equal(streamed.choices[0].message.content || null, whole.choices[0].message.content || null);
    assert.equal(streamed.choices[0].message.refusal ?? null, whole.choices[0].message.refusal ?? null);
    assert.equal(streamed.choices[0].finish_reason, whole.choices[0].finish_reason);
  });
}

test('a call of a function is answered in the next request', async () => {
  const stream = client.chat.completions.stream(chat('call the weather', { tools: TOOLS }));
  const completion = await stream.finalChatCompletion();

  const [choice] = completion.choices;
  assert.equal(choice.finish_reason, 'tool_calls');
  const [call] = choice.message.tool_calls;
  assert.deepEqual([call.type, call.function.name, call.function.arguments], ['function', 'weather', '{"city":"Oslo"}']);

  const messages = [
    { role: 'user', content: 'call the weather' },
    choice.message,
    { role: 'tool', tool_call_id: call.id, content: 'rain' },
  ];
  const answered = await client.chat.completions.create({ model: 'agent', messages, tools: TOOLS });
  assert.equal(answered.choices[0].message.content, 'It rains.');
});

test('the runner calls the function by itself', async () => {
  const cities = [];
  const weather = {
    ...TOOLS[0],
    function: {
      ...definition,
      parse: JSON.parse,
      function: ({ city }) => {
        cities.push(city);
        return 'rain';
      },
    },
  };
  const runner = client.chat.completions.runTools(chat('call the weather', { stream: true, tools: [weather] }));

  assert.equal(await runner.finalContent(), 'It rains.');
  assert.deepEqual(cities, ['Oslo']);
});

test('a failed chat without text is an error, one with text says so', async () => {
  const answer = await client.chat.completions.create(chat('fail')).withResponse();

  assert.equal(answer.data.choices[0].message.content, 'So f');
  assert.equal(answer.data.choices[0].finish_reason, 'error');
  assert.equal(answer.response.headers.get('x-hermes-completed'), 'false');
});

test('a chat with a session goes on from the store', async () => {
  const options = { headers: { 'X-Hermes-Session-Id': 'node-session' } };
  const first = await client.chat.completions.create(chat('text'), options).withResponse();
  assert.equal(first.response.headers.get('x-hermes-session-id'), 'node-session');

  const second = await client.chat.completions.create(chat('what did I ask first'), options);

  assert.equal(second.choices[0].message.content, 'text');
});

test('the same key and request are one chat', async () => {
  const options = { headers: { 'Idempotency-Key': 'node-chat' } };
  const first = await client.chat.completions.create(chat('text'), options);
  const again = await client.chat.completions.create(chat('text'), options).withResponse();

  assert.deepEqual({ ...again.data }, { ...first });
  assert.equal(again.response.headers.get('idempotency-replayed'), 'true');
  await assert.rejects(client.chat.completions.create(chat('refuse'), options), OpenAI.ConflictError);
});

test('a bad chat names the parameter', async () => {
  await assert.rejects(client.chat.completions.create(chat('text', { temperature: 3 })), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, 'temperature');
    return true;
  });
  await assert.rejects(client.chat.completions.create({ model: 'agent', messages: [] }), OpenAI.BadRequestError);
});
