// Streams: live, replayed, resumed, and through the SDK's helper, which is the strictest reader of them.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';

import { WEATHER, all, ask, client } from './client.mjs';

const ENDINGS = {
  text: 'response.completed',
  annotations: 'response.completed',
  'call the weather': 'response.completed',
  'think in summary': 'response.completed',
  'think aloud': 'response.completed',
  refuse: 'response.completed',
  'run into the limit': 'response.incomplete',
  fail: 'response.failed',
};

function textOf(events) {
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  return deltas.map((event) => event.delta).join('');
}

/** Without what the SDK's helper adds, which depends on what it was told about the request. */
function plain(output) {
  const added = new Set(['parsed', 'parsed_arguments']);
  return JSON.parse(JSON.stringify(output, (name, value) => (added.has(name) ? undefined : value)));
}

for (const [question, ending] of Object.entries(ENDINGS)) {
  test(`a stream is the same live and replayed from every event on: ${question}`, async () => {
    const live = await all(await ask(question, { stream: true }));

    assert.deepEqual([live[0].type, live.at(-1).type], ['response.created', ending]);
    assert.deepEqual(
      live.map((event) => event.sequence_number),
      live.map((_, number) => number),
    );
    const { id } = live[0].response;
    for (const { sequence_number: after } of [{ sequence_number: -1 }, ...live]) {
      const query = { stream: true, starting_after: after };
      assert.deepEqual(await all(await client.responses.retrieve(id, query)), live.slice(after + 1));
    }
  });

  test(`the helper follows a stream and finds it again: ${question}`, async () => {
    const live = client.responses.stream({ model: 'agent', input: question, tools: [WEATHER] });
    const events = await all(live);
    const final = await live.finalResponse();

    assert.equal(`response.${final.status}`, ending);
    const found = client.responses.stream({ response_id: final.id, starting_after: 3 });
    assert.deepEqual(
      (await all(found)).map((event) => event.type),
      events.slice(4).map((event) => event.type),
    );
    assert.deepEqual(plain((await found.finalResponse()).output), plain(final.output));
  });
}

test('a client that left goes on where it was', async () => {
  const seen = [];
  const stream = await ask('text', { stream: true, background: true });
  for await (const event of stream) {
    seen.push(event);
    if (event.type === 'response.output_text.delta') break;
  }

  const query = { stream: true, starting_after: seen.at(-1).sequence_number };
  const { id } = seen[0].response;
  seen.push(...(await all(await client.responses.retrieve(id, query))));

  assert.equal(textOf(seen), 'Hello, you!');
  assert.deepEqual(await all(await client.responses.retrieve(id, { stream: true })), seen);
});

test('a stream that is cancelled ends as the SDK expects it', async () => {
  const stream = await ask('never end', { stream: true });
  const events = stream[Symbol.asyncIterator]();
  const seen = [(await events.next()).value];
  while (seen.at(-1).type !== 'response.output_text.delta') seen.push((await events.next()).value);

  await client.responses.cancel(seen[0].response.id);
  for (let next = await events.next(); !next.done; next = await events.next()) seen.push(next.value);

  const last = seen.at(-1);
  assert.deepEqual([last.type, last.response.status], ['response.failed', 'cancelled']);
});

test('a stream that is not stored is gone afterwards', async () => {
  const events = await all(await ask('text', { stream: true, store: false }));

  assert.equal(textOf(events), 'Hello, you!');
  await assert.rejects(client.responses.retrieve(events[0].response.id), OpenAI.NotFoundError);
});

test('a retry with the same key is read by the helper from the first event on, active or not', async () => {
  const options = { headers: { 'Idempotency-Key': 'node-stream' } };
  const body = { model: 'agent', input: 'never end' };
  const first = all(await client.responses.create({ ...body, stream: true }, options));

  // The helper refuses any first event but response.created.
  const retry = client.responses.stream(body, options);
  const retried = all(retry);
  const { response } = await retry.emitted('response.created');
  await client.responses.cancel(response.id);

  const types = (events) => events.map((event) => event.type);
  const live = await first;
  assert.equal(live[0].response.id, response.id);
  assert.deepEqual(types(await retried), types(live));
  assert.deepEqual(types(await all(client.responses.stream(body, options))), types(live));
});
