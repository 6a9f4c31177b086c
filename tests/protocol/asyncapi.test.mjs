// docs/asyncapi.yaml as AsyncAPI's own parser reads it. That its messages are those of the server is
// checked by protocol/tests/schema.rs.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { Parser, fromFile } from '@asyncapi/parser';

const path = fileURLToPath(new URL('../../docs/asyncapi.yaml', import.meta.url));
// 0 and 1 of a diagnostic's severity; what is lower is advice.
const WARNING = 1;

test('the document is valid AsyncAPI 3, and every message is sent by somebody', async () => {
  const { document, diagnostics } = await fromFile(new Parser(), path).parse();
  assert.deepEqual(diagnostics.filter(({ severity }) => severity <= WARNING), []);
  assert.match(document.version(), /^3\./);
  const sent = document.operations().all().flatMap((operation) => operation.messages().all().map((message) => message.id()));
  const all = document.components().messages().all().map((message) => message.id());
  assert.ok(all.length >= 16, `${all}`);
  assert.deepEqual([...sent].sort(), [...all].sort());
  for (const message of document.allMessages()) {
    // The reference has been followed.
    assert.equal(message.payload().properties().type.const(), message.name());
  }
});
