// Tools that the server runs when a person has agreed.

import assert from 'node:assert/strict';
import test from 'node:test';

import { WAYS, answerTo, callsOf, openai } from './client.mjs';

for (const [way, ask] of Object.entries(WAYS)) {
  for (const approved of [true, false]) {
    test(`a call is made when a person has agreed, and only then: ${way} ${approved}`, async () => {
      const text = `approval_${way}_${approved}`;
      const model = openai('careful');
      const messages = [{ role: 'user', content: `once_effect ${text}` }];

      const asked = await ask({ model, messages });

      assert.deepEqual(callsOf(text), []);
      const [call, request] = asked.content;
      assert.deepEqual([call.type, call.toolName, call.input], ['tool-call', 'mcp.once_effect', { text }]);
      assert.deepEqual([request.type, request.toolCall.toolCallId], ['tool-approval-request', call.toolCallId]);

      // The SDK sends on only what is said about tools that run elsewhere.
      const agreed = { approvalId: request.approvalId, approved, providerExecuted: true };
      const content = [{ type: 'tool-approval-response', ...agreed }];
      messages.push(...asked.messages, { role: 'tool', content });
      const answered = await ask({ model, messages });

      assert.deepEqual(callsOf(text), approved ? [['once_effect', { text }]] : []);
      assert.equal(answered.text === answerTo('done'), approved, answered.text);
    });
  }
}
