// Starts clusters with scripts/dev-cluster, each with ports and a state directory of its own.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

function listen(port) {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}

// Below the ports that the kernel gives to clients.
export async function freeBase() {
  for (let nth = process.pid; ; nth++) {
    const base = 30100 + (nth % 26) * 100;
    try {
      for (const at of [0, 1, 2, 11, 12, 21, 22, 23, 24, 51, 52, 53, 54]) (await listen(base + at)).close();
      return base;
    } catch {}
  }
}

const script = path.join(root, 'scripts/dev-cluster');

export class Cluster {
  // `settings` are ONLINE_STATUS_... variables.
  constructor(base, settings = {}) {
    this.base = base;
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-dev-cluster-'));
    this.variables = { ...process.env, ...settings, ONLINE_STATUS_DEV_DIR: this.dir };
    delete this.variables.JWT_SECRET;
  }

  run(...words) {
    const done = spawnSync(script, words, { env: this.variables, encoding: 'utf8' });
    return { code: done.status, out: done.stdout, err: done.stderr };
  }

  // The same, while this process goes on; its exit code.
  begin(...words) {
    const child = spawn(script, words, { env: this.variables, stdio: ['ignore', 'ignore', 'inherit'] });
    return new Promise((resolve) => child.on('close', resolve));
  }

  good(...words) {
    const done = this.run(...words);
    assert.equal(done.code, 0, `${words.join(' ')}: ${done.out}${done.err}`);
    return done.out;
  }

  env() {
    return Object.fromEntries(
      this.good('env').trim().split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
  }

  // The state that `status` shows.
  state(name) {
    const row = this.run('status').out.split('\n').find((line) => line.startsWith(name));
    return row.slice(15, 25).trim();
  }

  remove() {
    this.run('down');
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

// Whether a process runs: not when it has ended and only waits for its parent to notice.
export function alive(pid) {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2)[0] !== 'Z';
  } catch {
    return false;
  }
}
