// Keys, a certificate and revocations change under 10,000 live sessions over TLS: no good one is cut, every
// bad one is gone within 2 s. By hand: node tests/hostile/rotation.mjs [--sessions 10000] [--bad 1000]
// [--port 25200] [--cluster]; the last has two edges and two coordinators of scripts/dev-cluster. Prints a row
// of a table. Needs as many open files as sessions and more (ulimit -n).
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { token, upgrade } from './attacks.mjs';

const { values: options } = parseArgs({ options: {
  sessions: { type: 'string', default: '10000' }, bad: { type: 'string', default: '1000' },
  port: { type: 'string', default: '25200' }, cluster: { type: 'boolean', default: false },
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

/** One edge that stands alone. */
function alone(settings) {
  const variables = { ...process.env, ...settings };
  delete variables.JWT_SECRET;
  const edge = spawn(binary('edge'), ['standalone', '--listen', `127.0.0.1:${PORT}`, '--server-admin-listen', `127.0.0.1:${PORT + 1}`],
    { stdio: ['ignore', 'ignore', 'inherit'], env: variables });
  children.push(edge);
  const admin = `http://127.0.0.1:${PORT + 1}`;
  return { admin, ports: [PORT], target: ['--url', `wss://127.0.0.1:${PORT}/socket`], portOf: () => PORT, pids: [edge.pid], down() {} };
}

/** Two edges, two coordinators, and what they need. */
function cluster(settings) {
  const env = { ...process.env, ...settings, ONLINE_STATUS_DEV_DIR: file('cluster') };
  const run = (...words) => execFileSync(path.join(root, 'scripts/dev-cluster'), words, { env, encoding: 'utf8' });
  const down = () => run('down');
  try {
    run('up', '--no-build', '--port-base', String(PORT), '--edges', '2', '--coordinators', '2');
    const told = Object.fromEntries(run('env').split('\n').map((line) => line.split('=')));
    const admin = told.COORDINATOR_1_URL;
    const portOf = async (user) => new URL((await (await fetch(`${admin}/route?userId=${user}`)).json()).address).port;
    const processes = ['EDGE_1', 'EDGE_2', 'COORDINATOR_1', 'COORDINATOR_2'];
    const ports = ['EDGE_1', 'EDGE_2'].map((name) => new URL(told[`${name}_ADDRESS`]).port);
    return { admin, ports, target: ['--coordinator', admin], portOf, pids: processes.map((name) => Number(told[`${name}_PID`])), down };
  } catch (error) {
    down();
    throw error;
  }
}

/** A session, or the status that refused it; `closed` is the code it ends with, and when. */
async function session(port, jwt) {
  const socket = tls.connect({ port, host: '127.0.0.1', ca: fs.readFileSync(file('ca.pem')) });
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
  const took = Date.now() - from;
  console.error(`${what}: after ${took} ms`);
  return took;
}

let servers;
const decree = async (what) => {
  const answer = await fetch(`${servers.admin}/revocations`, {
    method: 'POST', body: JSON.stringify(what), headers: { authorization: `Bearer ${token('root', { secret: NEW, scope: 'presence:admin' })}` },
  });
  assert.ok(answer.ok, `${answer.status} ${await answer.text()}`);
};

try {
  openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=ca');
  certificate(1);
  keys(OLD);
  const settings = {
    ONLINE_STATUS_AUTH_JWKS_FILE: file('keys.json'), ONLINE_STATUS_PRESENCE_MAX_DEVICES: '10000',
    ONLINE_STATUS_TLS_CERTIFICATE: file('edge.pem'), ONLINE_STATUS_TLS_KEY: file('edge.key'),
  };
  servers = options.cluster ? cluster(settings) : alone(settings);
  const reload = () => servers.pids.forEach((pid) => process.kill(pid, 'SIGHUP'));
  await until('it is ready', () => fetch(`${servers.admin}/readyz`).then((it) => it.ok, () => false));
  const bench = spawn(binary('bench'), ['connect', '--sessions', String(SESSIONS), '--duration', '60', '--watch', '0', '--json',
    ...servers.target, '--ca', file('ca.pem')], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, JWT_SECRET: OLD } });
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
    bad.push(...await Promise.all(Array.from({ length: 50 }, async (_, k) => {
      const user = (n + k) % 2 ? 'shared' : `bad-${n + k}`;
      return session(await servers.portOf(user), user === 'shared' ? shared : token(user, { secret: OLD, iat: 1 }));
    })));
  }
  assert.ok(bad.every(({ status }) => status === 101), 'all bad ones are in');
  console.error(`${SESSIONS} good sessions and ${BAD} bad ones`);

  // At every edge; one that does not own the user says so only behind the upgrade.
  const all = async (secret, holds) => (await Promise.all(servers.ports.map(async (port) => {
    const one = await session(port, token('new', { secret }));
    one.socket.destroy();
    return holds(one);
  }))).every(Boolean);
  const is = (expected) => ({ status }) => status === expected;
  assert.ok(await all(OLD, is(101)) && await all(NEW, is(401)));
  keys(OLD, NEW);
  reload();
  const taken = await until('tokens of the new key are taken', () => all(NEW, is(101)));
  keys(NEW);
  reload();
  const refused = await until('tokens of the old key are refused', () => all(OLD, is(401)));
  assert.ok(await all(NEW, is(101)));

  certificate(2);
  reload();
  const shown = await until('new connections see the new certificate', () => all(NEW, ({ serialNumber }) => serialNumber === '02'));

  const from = Date.now();
  await decree({ jti: 'stolen' });
  for (let n = 0; n < BAD; n += 2) await decree({ user: `bad-${n}` });
  const last = Date.now();
  const ends = await Promise.race([Promise.all(bad.map(({ closed }) => closed)), sleep(10000)]);
  assert.ok(ends, 'all bad ones are gone within 10 s');
  assert.ok(ends.every(({ code }) => code === 4401), 'each with 4401');
  const [ofToken, ofUsers] = [1, 0].map((odd) => Math.max(...ends.filter((_, n) => n % 2 === odd).map(({ at }) => at)));
  console.error(`${BAD / 2} sessions of a revoked token: the last was gone after ${ofToken - from} ms`);
  console.error(`${BAD / 2} revoked users, asked for in ${last - from} ms: the last was gone ${Math.max(0, ofUsers - last)} ms after that`);
  assert.ok(ofToken - from < 2000 && ofUsers - last < 2000, 'within 2 s');

  await ended;
  let report;
  try { report = JSON.parse(out); } catch { throw new Error(`the bench gave no result: ${err}`); }
  const failures = report.failures.filter((failure) => !failure.startsWith('INVALID'));
  const cut = report.timeline.reduce((sum, row) => sum + row.cut, 0);
  console.log('| servers | good sessions | bad | new key taken, ms | old one refused, ms | new certificate, ms | last of a revoked token, ms '
    + '| last of the revoked users, ms | good ones cut |\n|---|---|---|---|---|---|---|---|---|');
  console.log(`| ${options.cluster ? '2 edges, 2 coordinators' : 'a standalone edge'} | ${report.sessions} | ${BAD} | ${taken} | ${refused} | ${shown} `
    + `| ${ofToken - from} | ${Math.max(0, ofUsers - last)} | ${cut} |`);
  assert.deepEqual([failures, cut], [[], 0]);
} finally {
  for (const child of children) child.kill('SIGKILL');
  servers?.down();
  fs.rmSync(folder, { recursive: true, force: true });
}
