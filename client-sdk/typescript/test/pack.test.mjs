// What would be published: what is in the archives, and that an empty project can use them, as ES modules and
// CommonJS, in Node.js, Deno and Bun, with types.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const top = fileURLToPath(new URL('..', import.meta.url));
const tool = (path) => join(top, 'node_modules', path);
const archives = {};
let project;

const run = (program, ...words) => execFileSync(program, words, { cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

before(() => {
  project = mkdtempSync(join(tmpdir(), 'online-status-pack-'));
  for (const name of ['client', 'react']) {
    const [packed] = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', project], { cwd: `${top}packages/${name}`, encoding: 'utf8' }));
    archives[name] = packed;
  }
  writeFileSync(join(project, 'package.json'), '{"name":"empty","private":true}');
  run('npm', 'install', '--offline', '--no-audit', '--no-fund', '--legacy-peer-deps', `./${archives.client.filename}`, `./${archives.react.filename}`);
  for (const peer of ['react', '@types/react', 'csstype']) {
    if (!existsSync(tool(peer))) continue;
    if (peer === '@types/react') run('mkdir', '-p', 'node_modules/@types');
    symlinkSync(tool(peer), join(project, 'node_modules', peer));
  }
});
after(() => rmSync(project, { recursive: true, force: true }));

test('the archives hold what is built, what is said of it, and nothing else', () => {
  const files = (name) => archives[name].files.map(({ path }) => path).sort();
  const built = (names) => names.flatMap((one) => [`dist/${one}.cjs`, `dist/${one}.d.cts`, `dist/${one}.d.ts`, `dist/${one}.js`]);
  const types = ['core', 'json', 'page', 'requests', 'route', 'token', 'types', 'watches'].flatMap((one) => [`dist/${one}.d.cts`, `dist/${one}.d.ts`]);
  const words = ['CHANGELOG.md', 'LICENSE', 'README.md', 'package.json'];
  assert.deepEqual(files('client'), [...words, ...built(['index', 'cbor']), ...types].sort());
  assert.deepEqual(files('react'), [...words, ...built(['index'])].sort());
});

const USE = `
  if (typeof client.connect !== 'function' || cbor.protocol !== 'online-status.v1.cbor') throw new Error('not all is there');
  const presence = client.createPresence({ route: 'http://127.0.0.1:9', token: async () => '' });
  if (presence.state.state !== 'disconnected') throw new Error(presence.state.state);
  console.log('used');`;
const MODULE = `import * as client from '@online-status/client';\nimport { cbor } from '@online-status/client/cbor';${USE}`;

test('both kinds of modules are imported by Node.js', () => {
  writeFileSync(join(project, 'use.mjs'), MODULE);
  writeFileSync(join(project, 'use.cjs'), `const client = require('@online-status/client');\nconst { cbor } = require('@online-status/client/cbor');${USE}`);
  writeFileSync(join(project, 'hooks.mjs'), `import { usePresence } from '@online-status/react';\nconsole.log(typeof usePresence);`);
  writeFileSync(join(project, 'hooks.cjs'), `console.log(typeof require('@online-status/react').usePresence);`);
  for (const [file, words] of [['use.mjs', 'used'], ['use.cjs', 'used'], ['hooks.mjs', 'function'], ['hooks.cjs', 'function']]) {
    assert.equal(run(process.execPath, file).trim(), words, file);
  }
});

test('Deno imports it', () => {
  assert.equal(run(process.execPath, tool('deno/bin.cjs'), 'run', '--no-remote', '--allow-read', '--allow-env', 'use.mjs').trim(), 'used');
});

test('Bun imports it', () => {
  assert.equal(run(tool('bun/bin/bun.exe'), 'run', 'use.mjs').trim(), 'used');
});

test('types are found by TypeScript, as both kinds of modules and by bundlers', () => {
  const code = `
    import { connect, PresenceError, type UserPresence } from '@online-status/client';
    import { cbor } from '@online-status/client/cbor';
    import { usePresence } from '@online-status/react';
    const presence = connect({ route: 'https://x', token: async () => '', codec: cbor });
    const off: () => void = presence.watch(['bob'], (users: readonly UserPresence[]) => users.map(({ status }) => status));
    presence.on('state', ({ state, reason }) => { if (state === 'failed') throw reason as PresenceError; });
    presence.on('error', (error) => { const words: string = error.message; return words; });
    export const hook: typeof usePresence = usePresence;
    // @ts-expect-error: no mode
    void presence.setMode('gone');
    // @ts-expect-error: no event
    presence.on('nothing', () => {});
    off();`;
  writeFileSync(join(project, 'types.mts'), code);
  writeFileSync(join(project, 'types.cts'), code);
  const tsc = (...words) => {
    try {
      run(process.execPath, tool('typescript/bin/tsc'), '--noEmit', '--strict', '--lib', 'es2022,dom', '--skipLibCheck', ...words);
    } catch (error) {
      assert.fail(error.stdout);
    }
  };
  tsc('--module', 'nodenext', 'types.mts', 'types.cts');
  tsc('--module', 'esnext', '--moduleResolution', 'bundler', 'types.mts');
});

test('the archives have a version that their changelogs speak of', () => {
  for (const name of ['client', 'react']) {
    assert.match(readFileSync(join(project, 'node_modules/@online-status', name, 'CHANGELOG.md'), 'utf8'), new RegExp(`## ${archives[name].version.replaceAll('.', '\\.')}`));
  }
});
