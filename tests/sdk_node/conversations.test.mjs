// Conversations: made, filled, continued, listed, taken apart.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';

import { all, ask, client } from './client.mjs';

function message(text) {
  return { type: 'message', role: 'user', content: text };
}

function textOf(item) {
  return item.content.map((part) => part.text).join('');
}

test('a conversation is made, changed and deleted', async () => {
  const made = await client.conversations.create({ metadata: { topic: 'demo' } });
  assert.match(made.id, /^conv_/);
  assert.deepEqual([made.object, made.metadata], ['conversation', { topic: 'demo' }]);

  const changed = await client.conversations.update(made.id, { metadata: { topic: 'else' } });
  assert.deepEqual(changed.metadata, { topic: 'else' });
  assert.deepEqual({ ...(await client.conversations.retrieve(made.id)) }, { ...changed });

  const deleted = await client.conversations.delete(made.id);
  assert.deepEqual([deleted.id, deleted.object, deleted.deleted], [made.id, 'conversation.deleted', true]);
  await assert.rejects(client.conversations.retrieve(made.id), OpenAI.NotFoundError);
});

test('a response goes on from the items of its conversation, and adds its own', async () => {
  const { id } = await client.conversations.create({ items: [message('the first of all')] });
  const added = await client.conversations.items.create(id, { items: [message('and the next')] });
  assert.deepEqual(added.data.map(textOf), ['and the next']);

  const response = await ask('what did I ask first', { conversation: id });

  assert.equal(response.output_text, 'the first of all');
  assert.equal(response.conversation.id, id);
  const items = await all(client.conversations.items.list(id, { order: 'asc', limit: 2 }));
  assert.deepEqual(items.map(textOf), [
    'the first of all',
    'and the next',
    'what did I ask first',
    'the first of all',
  ]);
  const newest = await all(client.conversations.items.list(id));
  assert.deepEqual(newest, [...items].reverse());
});

test('an item is read, and what was deleted is not shown again', async () => {
  const { id } = await client.conversations.create({ items: [message('one'), message('two')] });
  const [one] = await all(client.conversations.items.list(id, { order: 'asc' }));
  const read = await client.conversations.items.retrieve(one.id, { conversation_id: id });
  assert.deepEqual({ ...read }, one);

  const left = await client.conversations.items.delete(one.id, { conversation_id: id });

  assert.equal(left.id, id);
  assert.deepEqual((await all(client.conversations.items.list(id))).map(textOf), ['two']);
  assert.equal((await ask('what did I ask first', { conversation: id })).output_text, 'two');
  await assert.rejects(client.conversations.items.retrieve(one.id, { conversation_id: id }), OpenAI.NotFoundError);
});

test('a conversation that nobody made is not found', async () => {
  const unknown = `conv_${'0'.repeat(32)}`;

  await assert.rejects(client.conversations.retrieve(unknown), OpenAI.NotFoundError);
  await assert.rejects(ask('text', { conversation: unknown }), OpenAI.NotFoundError);
});
