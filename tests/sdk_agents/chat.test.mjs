// The SDK's other model, which speaks chat completions: of the server's tools it learns the answer only.

import assert from 'node:assert/strict';
import test from 'node:test';

import { AGENTS, WAYS, answerTo, callsOf, openai, weather } from './client.mjs';

for (const agent of AGENTS) {
  for (const [way, ask] of Object.entries(WAYS)) {
    const tag = `${agent}_${way}`;
    const model = openai.chat(agent);

    test(`tools of the server do not show in a chat: ${tag}`, async () => {
      const text = `chat_${tag}`;
      const result = await ask({ model, prompt: `echo ${text} and add 1 2` });

      assert.deepEqual(result.outline, [['text', answerTo(text, '3')]]);
      assert.deepEqual(callsOf(text), [['echo', { text }]]);
      assert.deepEqual(result.usage, [1, 16, 6]);
    });

    test(`functions of the program are called from a chat: ${tag}`, async () => {
      const cities = [];
      const result = await ask({ model, prompt: 'weather Oslo', tools: { weather: weather(cities) } });

      assert.deepEqual(result.outline, [
        ['call', 'weather', { city: 'Oslo' }, false],
        ['result', 'weather', 'rain in Oslo'],
        ['text', answerTo('rain in Oslo')],
      ]);
      assert.deepEqual(cities, ['Oslo']);
      assert.deepEqual(result.usage, [2, 16, 6]);
    });

    test(`in a session the server remembers what its tools said: ${tag}`, async () => {
      const text = `session_${tag}`;
      const result = await ask({
        model,
        prompt: `echo ${text} then weather Oslo then add 1 2`,
        tools: { weather: weather() },
        headers: { 'X-Hermes-Session-Id': text },
      });

      assert.equal(result.text, answerTo(text, 'rain in Oslo', '3'));
      assert.deepEqual(callsOf(text), [['echo', { text }]]);
      assert.deepEqual(result.usage, [2, 32, 12]);
    });
  }
}
