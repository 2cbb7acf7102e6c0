// What all tests have: a client of the server that OPENAI_BASE_URL and OPENAI_API_KEY name.

import OpenAI from 'openai';

export const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });

/** Asks the model, and returns what the SDK makes of it: a response, or its events. */
export function ask(input, more = {}, options = {}) {
  return client.responses.create({ model: 'agent', input, ...more }, options);
}

/** All that an async iterable gives. */
export async function all(iterable) {
  const found = [];
  for await (const one of iterable) found.push(one);
  return found;
}

export const WEATHER = {
  type: 'function',
  name: 'weather',
  description: 'Tells the weather.',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
  strict: true,
};
