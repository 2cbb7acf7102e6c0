// Tools that the server runs and functions of the program, in one agent.

import assert from 'node:assert/strict';
import test from 'node:test';

import { ToolLoopAgent } from 'ai';

import { AGENTS, WAYS, answerTo, callsOf, openai, weather } from './client.mjs';

for (const agent of AGENTS) {
  for (const [way, ask] of Object.entries(WAYS)) {
    const tag = `${agent}_${way}`;
    const model = openai(agent);

    test(`tools of the server show as calls that are done: ${tag}`, async () => {
      const text = `done_${tag}`;
      const result = await ask({ model, prompt: `echo ${text} then add 1 2` });

      const [echo, add] = ['{"text":"' + text + '"}', '{"a":1,"b":2}'];
      const said = (name, args, output) => ({ type: 'call', serverLabel: 'scripted', name, arguments: args, output });
      assert.deepEqual(result.outline, [
        ['call', 'mcp.echo', JSON.parse(echo), true],
        ['result', 'mcp.echo', said('echo', echo, text)],
        ['call', 'mcp.add', JSON.parse(add), true],
        ['result', 'mcp.add', said('add', add, '3')],
        ['text', answerTo(text, '3')],
      ]);
      assert.deepEqual(callsOf(text), [['echo', { text }]]);
      assert.deepEqual(result.usage, [1, 24, 9]);
    });

    test(`functions of the program are called: ${tag}`, async () => {
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

    for (const order of ['then', 'and']) {
      test(`tools of both take their turns: ${order} ${tag}`, async () => {
        const text = `${order}_${tag}`;
        const cities = [];
        const result = await ask({
          model,
          prompt: `echo ${text} ${order} weather Oslo then add 1 2`,
          tools: { weather: weather(cities) },
        });

        const calls = result.outline.filter(([kind]) => kind === 'call').map(([, name]) => name);
        // A stream tells of a call of the server's when it has its result.
        assert.deepEqual(calls.sort(), ['mcp.add', 'mcp.echo', 'weather']);
        assert.equal(result.text, answerTo(text, 'rain in Oslo', '3'));
        assert.deepEqual(cities, ['Oslo']);
        assert.deepEqual(callsOf(text), [['echo', { text }]]);
        const answers = order === 'then' ? 4 : 3;
        assert.deepEqual(result.usage, [2, 8 * answers, 3 * answers]);
      });
    }

    test(`a tool that fails says so in its result: ${tag}`, async () => {
      const result = await ask({ model, prompt: 'fail' });

      const [, [kind, name, output]] = result.outline;
      assert.deepEqual([kind, name, output.output], ['result', 'mcp.fail', undefined]);
      assert.equal(output.error.content[0].text, 'it did not work');
      assert.equal(result.text, answerTo('it did not work'));
    });
  }
}

test('an agent of the SDK runs until nothing is left to call', async () => {
  const cities = [];
  const agent = new ToolLoopAgent({
    model: openai(AGENTS[0]),
    instructions: 'Be brief.',
    tools: { weather: weather(cities) },
  });

  const result = await agent.generate({ prompt: 'echo loop then weather Oslo' });

  assert.equal(result.text, answerTo('loop', 'rain in Oslo'));
  assert.deepEqual(cities, ['Oslo']);
  assert.deepEqual(callsOf('loop'), [['echo', { text: 'loop' }]]);
});
