// Keys, a certificate and revocations change under 10,000 live sessions over TLS: no good one is cut, every
// bad one is gone within 2 s. By hand: node tests/hostile/rotation.mjs [--sessions 10000] [--bad 1000]
// [--port 25200]. Needs as many open files as sessions and more (ulimit -n).
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { token, upgrade } from './attacks.mjs';

const { values: options } = parseArgs({ options: {
  sessions: { type: 'string', default: '10000' }, bad: { type: 'string', default: '1000' },
  port: { type: 'string', default: '25200' },
} });
const [SESSIONS, BAD, PORT] = [options.sessions, options.bad, options.port].map(Number);
const root = fileURLToPath(new URL('../..', import.meta.url));
const binary = (name) => path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release', `online-status-${name}`);
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'rotation-'));
const file = (name) => path.join(folder, name);
const children = [];
const [OLD, NEW] = ['the secret that is in force at first', 'the secret that comes in its place, later'];

function openssl(...words) {
  const done = spawnSync('openssl', words, { cwd: folder, encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
}

function certificate(serial) {
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', ...curve, '-keyout', 'new.key', '-out', 'edge.csr', '-subj', '/CN=edge');
  fs.writeFileSync(file('names'), 'subjectAltName=IP:127.0.0.1\n');
  openssl('x509', '-req', '-in', 'edge.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-set_serial', String(serial), '-days', '2',
    '-extfile', 'names', '-out', 'new.pem');
  fs.renameSync(file('new.key'), file('edge.key'));
  fs.renameSync(file('new.pem'), file('edge.pem'));
}

function keys(...secrets) {
  const set = { keys: secrets.map((secret) => ({ kty: 'oct', alg: 'HS256', k: Buffer.from(secret).toString('base64url') })) };
  fs.writeFileSync(file('new.json'), JSON.stringify(set));
  fs.renameSync(file('new.json'), file('keys.json'));
}

/** A session, or the status that refused it; `closed` is the code it ends with, and when. */
async function session(jwt) {
  const socket = tls.connect({ port: PORT, host: '127.0.0.1', ca: fs.readFileSync(file('ca.pem')) });
  socket.on('error', () => {});
  await new Promise((done) => { socket.once('secureConnect', done); socket.once('close', done); });
  const { serialNumber } = socket.getPeerCertificate();
  socket.write(upgrade(jwt));
  let bytes = await new Promise((done) => { socket.once('data', done); socket.once('close', () => done(Buffer.alloc(0))); });
  const status = Number(bytes.toString('latin1').split(' ')[1]);
  bytes = bytes.subarray(bytes.indexOf('\r\n\r\n') + 4);
  socket.on('data', (more) => { bytes = Buffer.concat([bytes, more]); });
  const closed = new Promise((done) => socket.once('close', () => {
    // The last frame is the close, whose payload begins with the code.
    const at = bytes.lastIndexOf(0x88);
    done({ code: at < 0 ? 0 : bytes.readUInt16BE(at + 2), at: Date.now() });
  }));
  socket.once('end', () => socket.end());
  return { status, serialNumber, closed, socket };
}

async function until(what, holds) {
  const from = Date.now();
  while (!await holds()) {
    assert.ok(Date.now() - from < 10000, what);
    await sleep(20);
  }
  console.log(`${what}: after ${Date.now() - from} ms`);
}

const decree = async (what) => {
  const answer = await fetch(`http://127.0.0.1:${PORT + 1}/revocations`, {
    method: 'POST', body: JSON.stringify(what), headers: { authorization: `Bearer ${token('root', { secret: NEW, scope: 'presence:admin' })}` },
  });
  assert.ok(answer.ok, `${answer.status} ${await answer.text()}`);
};

try {
  openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=ca');
  certificate(1);
  keys(OLD);
  const edge = spawn(binary('edge'), ['standalone', '--listen', `127.0.0.1:${PORT}`, '--server-admin-listen', `127.0.0.1:${PORT + 1}`,
    '--auth-jwks-file', file('keys.json'), '--presence-max-devices', '10000',
    '--tls-certificate', file('edge.pem'), '--tls-key', file('edge.key')], { stdio: ['ignore', 'ignore', 'inherit'] });
  children.push(edge);
  await until('the edge is ready', () => fetch(`http://127.0.0.1:${PORT + 1}/readyz`).then((it) => it.ok, () => false));
  const bench = spawn(binary('bench'), ['connect', '--sessions', String(SESSIONS), '--duration', '60', '--watch', '0', '--json',
    '--url', `wss://127.0.0.1:${PORT}/socket`, '--ca', file('ca.pem')], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, JWT_SECRET: OLD } });
  children.push(bench);
  let [out, err] = ['', ''];
  bench.stdout.on('data', (data) => { out += data; });
  const ended = new Promise((done) => { bench.on('close', done); });
  await Promise.race([ended, new Promise((done) => bench.stderr.on('data', (data) => {
    err += data;
    if (err.includes('the measured part begins')) done();
  }))]);
  // Half of the bad ones are users of their own, the others share one token.
  const shared = token('shared', { secret: OLD, jti: 'stolen', iat: 1 });
  const bad = [];
  for (let n = 0; n < BAD; n += 50) {
    bad.push(...await Promise.all(Array.from({ length: 50 }, (_, k) => session(
      (n + k) % 2 ? shared : token(`bad-${n + k}`, { secret: OLD, iat: 1 })))));
  }
  assert.ok(bad.every(({ status }) => status === 101), 'all bad ones are in');
  console.log(`${SESSIONS} good sessions and ${BAD} bad ones`);

  const status = async (secret) => {
    const one = await session(token('new', { secret }));
    one.socket.destroy();
    return one.status;
  };
  assert.deepEqual([await status(OLD), await status(NEW)], [101, 401]);
  keys(OLD, NEW);
  edge.kill('SIGHUP');
  await until('tokens of the new key are taken', async () => await status(NEW) === 101);
  keys(NEW);
  edge.kill('SIGHUP');
  await until('tokens of the old key are refused', async () => await status(OLD) === 401);
  assert.equal(await status(NEW), 101);

  certificate(2);
  edge.kill('SIGHUP');
  await until('new connections see the new certificate', async () => {
    const one = await session(token('new', { secret: NEW }));
    one.socket.destroy();
    return one.serialNumber === '02';
  });

  const from = Date.now();
  await decree({ jti: 'stolen' });
  for (let n = 0; n < BAD; n += 2) await decree({ user: `bad-${n}` });
  const last = Date.now();
  const ends = await Promise.race([Promise.all(bad.map(({ closed }) => closed)), sleep(10000)]);
  assert.ok(ends, 'all bad ones are gone within 10 s');
  assert.ok(ends.every(({ code }) => code === 4401), 'each with 4401');
  const [ofToken, ofUsers] = [1, 0].map((odd) => Math.max(...ends.filter((_, n) => n % 2 === odd).map(({ at }) => at)));
  console.log(`${BAD / 2} sessions of a revoked token: the last was gone after ${ofToken - from} ms`);
  console.log(`${BAD / 2} revoked users, asked for in ${last - from} ms: the last was gone ${Math.max(0, ofUsers - last)} ms after that`);
  assert.ok(ofToken - from < 2000 && ofUsers - last < 2000, 'within 2 s');

  await ended;
  let report;
  try { report = JSON.parse(out); } catch { throw new Error(`the bench gave no result: ${err}`); }
  const failures = report.failures.filter((failure) => !failure.startsWith('INVALID'));
  const cut = report.timeline.reduce((sum, row) => sum + row.cut, 0);
  console.log(`good sessions cut: ${cut} of ${report.sessions}`);
  assert.deepEqual([failures, cut], [[], 0]);
} finally {
  for (const child of children) child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
}
