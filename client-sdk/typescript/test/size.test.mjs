// What a page loads is small: 6 kB compressed with brotli, as web servers send it.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const file = (name) => readFileSync(new URL(`../packages/${name}`, import.meta.url));
export const sizes = (code) => ({
  bytes: code.length,
  brotli: brotliCompressSync(code, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }).length,
  gzip: gzipSync(code, { level: 9 }).length,
});

for (const [name, most] of [['client/dist/index.js', 6000], ['client/dist/cbor.js', 1600], ['react/dist/index.js', 1000]]) {
  test(`${name} has at most ${most} bytes compressed`, (t) => {
    const size = sizes(file(name));
    t.diagnostic(JSON.stringify(size));
    assert.ok(size.brotli <= most, `${size.brotli} bytes`);
  });
}

test('pages of edges and coordinators have this build', () => {
  const built = readFileSync(new URL('../built/client.js', import.meta.url));
  assert.ok(built.equals(file('client/dist/index.js')), 'built/client.js is another one: npm run embed');
});

test('the client has no dependencies, and the hooks only what they are for', () => {
  const { dependencies } = JSON.parse(file('client/package.json'));
  assert.equal(dependencies, undefined);
  const react = JSON.parse(file('react/package.json'));
  assert.equal(react.dependencies, undefined);
  assert.deepEqual(Object.keys(react.peerDependencies), ['@online-status/client', 'react']);
});
