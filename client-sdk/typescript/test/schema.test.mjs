// The client's types, and the messages that it sends and is sent in the behaviour files, are those of
// docs/schema/messages.json.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { compile } from 'json-schema-to-typescript';
import ts from 'typescript';
import { Checker, schema } from './schema.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const settings = ts.getParsedCommandLineOfConfigFile(
  here('../tsconfig.json'),
  { rootDir: undefined, lib: ['lib.es2022.d.ts'], skipLibCheck: true },
  { ...ts.sys, onUnRecoverableConfigFileDiagnostic: assert.fail },
);
const parsed = new Map();

/** What tsc says of types.ts beside the types that the schema makes. */
async function compared(schema) {
  const made = here('messages.d.ts');
  const { anyOf: _, ...setStatus } = schema.definitions.setStatus;
  const definitions = { ...schema.definitions, setStatus };
  const text = await compile({ ...schema, definitions }, 'Messages', { format: false });
  const host = ts.createCompilerHost(settings.options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (path) => path === made || fileExists(path);
  host.getSourceFile = (path, options) => {
    if (path === made) return ts.createSourceFile(path, text, options);
    return parsed.get(path) ?? parsed.set(path, getSourceFile(path, options)).get(path);
  };
  const program = ts.createProgram([here('types.ts')], settings.options, host);
  return ts.getPreEmitDiagnostics(program).map(({ messageText, file, start }) =>
    `${file?.fileName}:${file?.getLineAndCharacterOfPosition(start).line + 1}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`);
}

test('the types of the client are those of the schema', async () => {
  assert.deepEqual(await compared(schema()), []);
});

test('and a schema with a member of another name, a word more, or another kind of value is not that of the client', async () => {
  const changes = [
    ({ record: { properties } }) => { properties.seen_at = properties.last_seen; delete properties.last_seen; },
    ({ record: { properties } }) => { properties.version = { type: 'string' }; },
    ({ record: { properties } }) => { properties.mood = { type: 'string' }; },
    ({ status }) => { status.enum.push('asleep'); },
    ({ welcome: { required, properties } }) => { properties.name = properties.node; delete properties.node; required.splice(required.indexOf('node'), 1, 'name'); },
    ({ setStatus: { properties } }) => { properties.words = properties.text; delete properties.text; },
  ];
  for (const change of changes) {
    const other = schema();
    change(other.definitions);
    const found = await compared(other);
    assert.match(found.join('\n'), /^[^\n]*types\.ts:\d+: Type 'false' does not satisfy/, String(change));
  }
});

test('messages that are not of the schema are found', () => {
  const sent = new Checker('clientMessage');
  sent.check({ type: 'watch', users: ['bob'], known: { bob: 7 }, id: 1 });
  for (const message of [{ type: 'watch', user: ['bob'] }, { type: 'watch', users: ['bob'], knows: {} }, { type: 'look', users: [] }, { type: 'welcome' }]) {
    assert.throws(() => sent.check(message), JSON.stringify(message));
  }
});
