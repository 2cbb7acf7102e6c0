// Several turns, by each way in which the SDK goes on from what was said before.

import test from 'node:test';
import assert from 'node:assert/strict';

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
  async 'by conversation'(ask, questions) {
    const url = `${process.env.OPENAI_BASE_URL}/conversations`;
    const headers = { Authorization: `Bearer ${process.env.OPENAI_API_KEY}`, 'Content-Type': 'application/json' };
    const made = await fetch(url, { method: 'POST', headers, body: '{}' });
    const { id: conversation } = await made.json();
    const results = [];
    for (const prompt of questions) {
      results.push(await ask({ prompt, providerOptions: { openai: { conversation } } }));
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
  }
}
