// What scripts/run and scripts/test install on a machine that lacks it: the real script, in a folder of
// programs that write down how they were called in place of those that would change the machine.

import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';

const root = join(import.meta.dirname, '../..');
const pinned = /channel = "(.*)"/.exec(readFileSync(join(root, 'rust-toolchain.toml'), 'utf8'))[1];
const compiler = '#!/bin/sh\nexit 0\n';
const rust = `#!/bin/sh\necho "cargo ${pinned} (00000000 2026-01-01)"\n`;
const curl = '#!/bin/sh\necho "curl $*" >>"$CALLS"\necho exit 0\n';
const all = { cc: compiler, 'c++': compiler, make: compiler, cmake: compiler, 'pkg-config': compiler };
const packages = ['gcc', 'g++', 'make', 'cmake', 'pkg-config', 'libssl-dev'];

/** Sets up with nothing but these programs, in PATH and in ~/.cargo/bin; as root or not. */
function setUp(programs, { user = 1000, home = {} } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'setup-'));
  try {
    const calls = join(folder, 'calls');
    writeFileSync(calls, '');
    const add = (bin, name, text) => {
      mkdirSync(bin, { recursive: true });
      writeFileSync(join(bin, name), text);
      chmodSync(join(bin, name), 0o755);
    };
    const bin = join(folder, 'bin');
    for (const [name, text] of Object.entries(programs)) add(bin, name, text);
    for (const [name, text] of Object.entries(home)) add(join(folder, 'home/.cargo/bin'), name, text);
    for (const name of ['env', 'sed', 'sh', 'cat']) symlinkSync(`/usr/bin/${name}`, join(bin, name));
    add(bin, 'id', `#!/bin/sh\necho ${user}\n`);
    const script = `root=${root}; source "$root/scripts/dev/setup"; set_up && echo "cargo: $(command -v cargo)"`;
    const ran = spawnSync('/bin/bash', ['-c', script], {
      encoding: 'utf8',
      env: { PATH: bin, HOME: join(folder, 'home'), CALLS: calls },
    });
    return {
      status: ran.status,
      said: ran.stderr,
      out: ran.stdout,
      calls: readFileSync(calls, 'utf8').split('\n').slice(0, -1),
      home: join(folder, 'home'),
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A program that writes down how it was called, and then does this. */
const noted = (name, then = '') => `#!/bin/sh\necho "${name} $*" >>"$CALLS"\n${then}\n`;
const sudo = noted('sudo', 'exec "$@"');

test('with everything there, nothing is installed and nobody is asked for a right', () => {
  const ran = setUp({ ...all, cargo: rust, sudo, 'apt-get': noted('apt-get'), curl, rustup: noted('rustup') });
  assert.deepEqual([ran.status, ran.said, ran.calls], [0, '', []]);
});

test('Rust is found where rustup puts it, though it is not in PATH', () => {
  const ran = setUp({ ...all, sudo, curl }, { home: { cargo: rust } });
  assert.deepEqual([ran.status, ran.said, ran.calls], [0, '', []]);
  assert.equal(ran.out.trim(), `cargo: ${join(ran.home, '.cargo/bin/cargo')}`);
});

test('what is missing is said a line each, and installed at once with sudo', () => {
  const ran = setUp({ cargo: rust, sudo, 'apt-get': noted('apt-get') });
  assert.equal(ran.status, 0);
  const lines = ran.said.split('\n').slice(0, -1);
  assert.deepEqual(
    lines.map((line) => /^setup: (.*) is missing: to be installed, the package (.*)$/.exec(line)?.[2]),
    packages,
  );
  const installed = ran.calls.filter((call) => call.startsWith('apt-get install'));
  assert.equal(installed.length, 1);
  assert.ok(installed[0].endsWith(` ${packages.join(' ')}`), installed[0]);
  assert.ok(ran.calls.includes('sudo apt-get update -qq'));
});

test('root needs no sudo, and without either it is said what root would have to do', () => {
  const asRoot = setUp({ cargo: rust, 'apt-get': noted('apt-get') }, { user: 0 });
  assert.equal(asRoot.status, 0);
  assert.ok(!asRoot.calls.some((call) => call.startsWith('sudo')));
  const without = setUp({ cargo: rust, 'apt-get': noted('apt-get') });
  assert.equal(without.status, 1);
  assert.ok(without.said.endsWith(`there is no sudo; as root: apt-get install ${packages.join(' ')}\n`), without.said);
  const elsewhere = setUp({ cargo: rust, sudo });
  assert.equal(elsewhere.status, 1);
  assert.match(elsewhere.said, /there is no apt-get here/);
});

test('a failure of apt-get ends it', () => {
  const ran = setUp({ cargo: rust, sudo, 'apt-get': noted('apt-get', 'exit 100') });
  assert.equal(ran.status, 1);
  assert.match(ran.said, /apt-get has failed/);
});

test('a rustup that lacks the pinned version is told to install it', () => {
  const old = rust.replaceAll(pinned, '1.0.0');
  const ran = setUp({ ...all, cargo: old, rustup: noted('rustup'), sudo });
  assert.equal(ran.status, 0);
  assert.match(ran.said, new RegExp(`^setup: Rust ${pinned} is missing: to be installed by rustup`));
  assert.deepEqual(ran.calls, [`rustup toolchain install ${pinned} --profile minimal --component rustfmt --component clippy`]);
});

test('without Rust, rustup is fetched from its own address and needs no right', () => {
  const ran = setUp({ ...all, curl, sudo, 'apt-get': noted('apt-get') });
  // The stand-in for its installer installs nothing.
  assert.equal(ran.status, 1);
  assert.equal(ran.calls.filter((call) => /^curl .*https:\/\/sh\.rustup\.rs$/.test(call)).length, 1);
  assert.match(ran.said, /^setup: rustup is missing: to be installed in .*\.cargo, from https:\/\/sh\.rustup\.rs\n/);
});

test('root takes the package of rustup where the release has one', () => {
  const aptGet = noted('apt-get');
  const has = { ...all, 'apt-get': aptGet, 'apt-cache': '#!/bin/sh\necho Package: rustup\n' };
  const ran = setUp(has, { user: 0 });
  assert.match(ran.calls.at(-1), /^apt-get install .* rustup$/);
  const older = setUp({ ...has, 'apt-cache': '#!/bin/sh\nexit 100\n', curl }, { user: 0 });
  assert.ok(older.calls.some((call) => call.startsWith('curl ')));
});
