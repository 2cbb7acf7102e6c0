// What all tests have: the AI SDK as docs/clients.md sets it up, and what the server's tools were asked.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { createOpenAI } from '@ai-sdk/openai';
import { generateText, isStepCount, streamText, tool } from 'ai';
import { z } from 'zod';

export const openai = createOpenAI({
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  headers: { 'X-Talaria-Tool-Items': 'mcp_call' },
});

// Warnings are looked for in results, and not printed.
globalThis.AI_SDK_LOG_WARNINGS = false;

/** The names of the agents; one for each kind of upstream. */
export const AGENTS = process.env.AGENTS.split(' ');

const usual = { stopWhen: isStepCount(5), maxRetries: 0 };

/** The SDK's two ways to an answer, with all that the streamed one says put together. */
export const WAYS = {
  async whole(settings) {
    const result = await generateText({ ...usual, ...settings });
    return shown(result);
  },
  async streamed(settings) {
    const errors = [];
    const result = streamText({ ...usual, ...settings, onError: ({ error }) => errors.push(error) });
    const parts = [];
    for await (const part of result.stream) parts.push(part.type);
    assert.deepEqual(errors, []);
    assert.ok(!parts.includes('error') && !parts.includes('tool-error'), parts.join());
    const names = ['text', 'steps', 'totalUsage', 'responseMessages'];
    const values = await Promise.all(names.map((name) => result[name]));
    return shown(Object.fromEntries(names.map((name, at) => [name, values[at]])));
  },
};

function shown(result) {
  const steps = result.steps;
  assert.deepEqual(steps.flatMap((step) => step.warnings ?? []), []);
  return {
    text: result.text,
    responseId: steps.at(-1).providerMetadata.openai?.responseId,
    content: steps.at(-1).content,
    messages: result.responseMessages,
    outline: steps.flatMap((step) => step.content).filter(isSomething).map(line),
    usage: [steps.length, result.totalUsage.inputTokens, result.totalUsage.outputTokens],
  };
}

/** The first chunk of a chat names the role, with no text yet, and that is a text for the SDK. */
function isSomething(part) {
  return part.type !== 'text' || part.text !== '';
}

/** What a part of a step is, and what it says. */
function line(part) {
  if (part.type === 'text') return ['text', part.text];
  if (part.type === 'tool-call') return ['call', part.toolName, part.input, part.providerExecuted ?? false];
  if (part.type === 'tool-result') return ['result', part.toolName, part.output];
  return [part.type];
}

/** A function of the program, which keeps the cities that it was asked about. */
export function weather(cities = []) {
  return tool({
    description: 'Tells the weather.',
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      cities.push(city);
      return `rain in ${city}`;
    },
  });
}

/** The calls of the server's tools that have the word: names and arguments. */
export function callsOf(tag) {
  const messages = readFileSync(process.env.MCP_LOG, 'utf8').trim().split('\n').map(JSON.parse);
  const calls = messages.filter((message) => message.method === 'tools/call').map((message) => message.params);
  return calls
    .filter((call) => JSON.stringify(call.arguments).includes(tag))
    .map((call) => [call.name, call.arguments]);
}

/** What the scripted model says in the end, when tools have said this. */
export function answerTo(...outputs) {
  return 'Tools: ' + outputs.sort().join(', ');
}
