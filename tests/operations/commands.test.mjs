// The commands of the first pages, run as they are written: README.md and docs/start.md. Every block of commands is
// either run here or named below with the reason why not. Loads are made small, so that a busy machine passes; nothing
// else is changed. They run in a network of their own, where the ports of the pages are free.
import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const target = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release');
const PATIENCE = 60000;

// Blocks that are not run here, by their first line.
const elsewhere = {
  'scripts/run': 'it builds and serves: tests/operations/setup.test.mjs; here the edge that it ends in is started',
  'scripts/dev-cluster up        # Redis, Kafka, two coordinators, three edges; prints what to try': 'tests/dev-cluster',
  'scripts/dev-cluster up': 'tests/dev-cluster, and the same load by hand: docs/benchmarks.md',
  'scripts/test': 'this is a part of it',
  'cargo run --release -p online-status-bench -- presence --sessions 10000 --duration 10': 'it builds; docs/start.md has the same with the program',
  'kubectl kustomize packaging/kubernetes': 'tests/operations/kubernetes.test.mjs, where kubectl is installed',
};

function blocks(page) {
  const text = fs.readFileSync(path.join(root, page), 'utf8');
  const found = [...text.matchAll(/^( *)```sh\n(.*?)^ *```/gms)].map(([, indent, block]) => block.replaceAll(new RegExp(`^${indent}`, 'gm'), ''));
  return found.map((block) => ({ page, block, first: block.split('\n')[0] }));
}

const all = ['README.md', 'docs/start.md'].flatMap(blocks);
const run = all.filter(({ first }) => !(first in elsewhere));

// A block as it is run: small loads, a folder of its own, and a server goes on in the background.
const small = (block, folder) => block
  .replaceAll(/--sessions \d+/g, '--sessions 100')
  .replaceAll(/--rate \d+/g, '--rate 50')
  .replaceAll(/--duration \d+/g, '--duration 1')
  .replaceAll('/var/lib/online-status', path.join(folder, 'data'))
  .replaceAll('--report run.html', `--report ${path.join(folder, 'run.html')}`)
  // What a host lacks is no error of the command.
  .replaceAll(/^(online-status-tuning (?:check|capacity) .*)$/gm, '$1 || [ $? = 1 ]')
  .replaceAll(/^(online-status-edge standalone.*)$/gm, '$1 &\nready');

// A shell in a network of its own, with what the pages take for granted.
function session(folder, script) {
  const start = `
    set -eu
    python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))'
    ready() { for n in $(seq 300); do curl -sf http://127.0.0.1:8081/readyz >/dev/null && return; sleep 0.1; done; echo 'the edge never was ready'; exit 1; }
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  `;
  const { JWT_SECRET, ...environment } = process.env;
  const env = { ...environment, PATH: `${target}:${process.env.PATH}` };
  const words = ['--net', '--map-root-user', 'bash', '-c', start + script];
  const child = spawn('unshare', words, { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data));
  const late = setTimeout(() => child.kill('SIGKILL'), PATIENCE);
  return new Promise((resolve) => child.on('close', (code) => {
    clearTimeout(late);
    resolve({ code, said });
  }));
}

let folder;
before(() => { folder = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-commands-')); });
after(() => fs.rmSync(folder, { recursive: true, force: true }));

test('every block is run here, or said why not', () => {
  assert.ok(run.length >= 6, `${run.length} blocks are run`);
  for (const first of Object.keys(elsewhere)) assert.ok(all.some((block) => block.first === first), `no block begins with ${first}`);
});

const may = spawnSync('unshare', ['--net', '--map-root-user', 'true']).status === 0;
const needs = may ? false : 'this user may make no network of its own (unshare --net --map-root-user)';

// Each has a network of its own, so they wait side by side.
describe('what is run', { concurrency: true, skip: needs }, () => {
  for (const { page, block, first } of run) {
    test(`${page}: ${first}`, async () => {
      // What serves already, unless the block starts one: the edge of scripts/run.
      const serves = block.includes('online-status-edge standalone') ? '' : 'online-status-edge standalone >/dev/null &\nready\n';
      const { code, said } = await session(folder, serves + small(block, folder));
      // A bench that was late on a busy machine says so, and that it proves nothing.
      assert.ok(code === 0 || said.includes('INVALID'), `exit code ${code}\n${block}\n${said}`);
      assert.doesNotMatch(said, /"status":[45]\d\d/, 'a request was answered with a problem');
    });
  }
});
