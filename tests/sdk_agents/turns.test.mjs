// Several turns, by each way in which the SDK goes on from what was said before.

import assert from 'node:assert/strict';
import test from 'node:test';

import { AGENTS, WAYS, answerTo, callsOf, openai, weather } from './client.mjs';

/** Each: asks the questions one after the other. */
const MEMORIES = {
  async 'by previous response'(ask, questions) {
    const results = [];
    for (const prompt of questions) {
      const previousResponseId = results.at(-1)?.responseId;
      results.push(await ask({ prompt, providerOptions: { openai: { previousResponseId } } }));
    }
    return results;
  },
  async 'by messages'(ask, questions) {
    const results = [];
    const messages = [];
    for (const content of questions) {
      messages.push({ role: 'user', content });
      results.push(await ask({ messages }));
      messages.push(...results.at(-1).messages);
    }
    return results;
  },
};

for (const agent of AGENTS) {
  for (const [way, ask] of Object.entries(WAYS)) {
    for (const [memory, remember] of Object.entries(MEMORIES)) {
      test(`turns with tools of both are remembered ${memory}: ${agent} ${way}`, async () => {
        const text = `turns_${memory.replaceAll(' ', '_')}_${agent}_${way}`;
        const first = `echo ${text} and fail then weather Oslo`;
        const questions = [first, `add 1 2 and weather ${text}`, 'what did I ask first'];
        const settings = { model: openai(agent), tools: { weather: weather() } };

        const [one, two, three] = await remember((more) => ask({ ...settings, ...more }), questions);

        assert.equal(one.text, answerTo(text, 'it did not work', 'rain in Oslo'));
        assert.equal(two.text, answerTo('3', `rain in ${text}`));
        assert.deepEqual(three.outline, [['text', first]]);
        assert.deepEqual(callsOf(text), [['echo', { text }]]);
      });
    }

    // With functions of the program, the SDK would ask the same question again at every step.
    test(`turns with tools of the server are remembered in a conversation: ${agent} ${way}`, async () => {
      const text = `conversation_${agent}_${way}`;
      const providerOptions = { openai: { conversation: text } };
      const say = (prompt) => ask({ model: openai(agent), prompt, providerOptions });

      const one = await say(`echo ${text} and fail`);
      const two = await say('add 1 2');
      const three = await say('what did I ask first');

      assert.equal(one.text, answerTo(text, 'it did not work'));
      assert.equal(two.text, answerTo('3'));
      assert.deepEqual(three.outline, [['text', `echo ${text} and fail`]]);
      assert.deepEqual(callsOf(text), [['echo', { text }]]);
    });
  }
}

test('the same key and question are one run', async () => {
  for (const [way, ask] of Object.entries(WAYS)) {
    const text = `key_${way}`;
    const asked = { model: openai(AGENTS[0]), prompt: `echo ${text}`, headers: { 'Idempotency-Key': text } };

    const [one, two] = await Promise.all([ask(asked), ask(asked)]);

    assert.deepEqual(two, one);
    assert.deepEqual(callsOf(text), [['echo', { text }]]);
  }
});

test('with store: false the program remembers by itself', async () => {
  const messages = [{ role: 'user', content: 'weather Oslo' }];
  const settings = { model: openai(AGENTS[0]), providerOptions: { openai: { store: false } } };
  const one = await WAYS.streamed({ ...settings, messages, tools: { weather: weather() } });
  messages.push(...one.messages, { role: 'user', content: 'what did I ask first' });
  const two = await WAYS.streamed({ ...settings, messages });

  assert.equal(one.text, answerTo('rain in Oslo'));
  assert.equal(two.text, 'weather Oslo');
});
