// What 1,000 good sessions feel of each attack: one edge, one run of the bench, attack after attack with
// quiet between them. By hand: node tests/hostile/run.mjs [--only WORD] [--seconds 8] [--quiet 5]
// [--sessions 1000] [--port 25100]; prints a row an attack and fails when a good session was cut or anything was wrong.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ATTACKS, start } from './attacks.mjs';

const { values: options } = parseArgs({ options: {
  only: { type: 'string', default: '' }, seconds: { type: 'string', default: '8' },
  quiet: { type: 'string', default: '5' }, sessions: { type: 'string', default: '1000' }, port: { type: 'string', default: '25100' },
} });
const [SECONDS, QUIET, SESSIONS, PORT] = [options.seconds, options.quiet, options.sessions, options.port].map(Number);
// Each changes every two seconds.
const RATE = SESSIONS / 2;
const root = fileURLToPath(new URL('../..', import.meta.url));
const binary = (name) => path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release', `online-status-${name}`);
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'hostile-'));
const children = [];

const openssl = spawnSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
  '-days', '2', '-keyout', 'key.pem', '-out', 'cert.pem', '-subj', '/CN=edge', '-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE'], { cwd: folder });
if (openssl.status !== 0) throw new Error(`openssl: ${openssl.stderr}`);

/** An edge with the limits that its documentation recommends for the open internet. */
async function edge(port, ...words) {
  const admin = port + 1;
  children.push(spawn(binary('edge'), ['standalone', '--listen', `127.0.0.1:${port}`, '--server-admin-listen', `127.0.0.1:${admin}`, ...words],
    { stdio: ['ignore', 'ignore', 'ignore'] }));
  for (let tries = 0; ; tries += 1) {
    if (await fetch(`http://127.0.0.1:${admin}/readyz`).then((answer) => answer.ok, () => false)) return;
    if (tries > 200) throw new Error('the edge never was ready');
    await sleep(100);
  }
}

/** The attacks, one after the other, while the bench looks at one edge; the rows. */
async function run(names, port, target) {
  // Ended when the attacks are over, which hold this process up, too.
  const total = 3600;
  const bench = spawn(binary('bench'), ['presence', '--sessions', String(SESSIONS), '--rate', String(RATE), '--duration', String(total),
    '--drain', '10', '--json', ...target], { stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(bench);
  let [out, err, begun] = ['', '', null];
  bench.stdout.on('data', (data) => { out += data; });
  const ended = new Promise((done) => { bench.on('close', done); });
  const begins = new Promise((done) => bench.stderr.on('data', (data) => {
    err += data;
    if (err.includes('the measured part begins')) { begun ??= Date.now(); done(); }
  }));
  await Promise.race([begins, ended]);
  const rows = [];
  for (const name of names) {
    await sleep(QUIET * 1000);
    const from = (Date.now() - begun) / 1000;
    const attack = start(name, port);
    await sleep(SECONDS * 1000);
    attack.stop();
    rows.push({ name, from, to: (Date.now() - begun) / 1000, begun: attack.begun });
  }
  bench.kill('SIGINT');
  await ended;
  let report;
  try { report = JSON.parse(out); } catch { throw new Error(`the bench gave no result: ${err}`); }
  const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
  // A second that an attack begins or ends in is nobody's.
  const p99 = (from, to) => median(report.timeline
    .filter(({ second }) => second >= from && second + 1 <= to).map((row) => row.p99));
  for (const row of rows) {
    row.attacked = p99(row.from + 0.5, row.to);
    row.without = p99(row.from - QUIET + 1, row.from);
    row.ratio = row.attacked / row.without;
    const seconds = report.timeline.filter(({ second }) => second >= row.from - 1 && second < row.to + 2);
    row.harm = seconds.reduce((sum, { cut, wrong, refused }) => sum + cut + wrong + refused, 0);
  }
  const failures = report.failures.filter((failure) => !/^(INVALID|INTERRUPTED)/.test(failure));
  return { rows, failures };
}

let bad = 0;
try {
  await edge(PORT);
  await edge(PORT + 10, '--tls-certificate', path.join(folder, 'cert.pem'), '--tls-key', path.join(folder, 'key.pem'));
  const all = Object.keys(ATTACKS).filter((name) => name.includes(options.only));
  const secure = all.filter((name) => name.includes('TLS'));
  const plain = all.filter((name) => !name.includes('TLS'));
  console.log('| attack | connections begun | p99 without, ms | p99 during, ms | ratio | good sessions harmed |\n|---|---|---|---|---|---|');
  for (const [names, port, target] of [
    [plain, PORT, ['--url', `ws://127.0.0.1:${PORT}/socket`]],
    [secure, PORT + 10, ['--url', `wss://127.0.0.1:${PORT + 10}/socket`, '--ca', path.join(folder, 'cert.pem')]],
  ]) {
    if (names.length === 0) continue;
    const { rows, failures } = await run(names, port, target);
    for (const row of rows) {
      bad += row.harm;
      const ms = (us) => (us / 1000).toFixed(1);
      console.log(`| ${row.name} | ${row.begun} | ${ms(row.without)} | ${ms(row.attacked)} | ${row.ratio.toFixed(2)} | ${row.harm} |`);
    }
    for (const failure of failures) { bad += 1; console.log(failure); }
  }
} finally {
  for (const child of children) child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
}
process.exit(bad ? 1 : 0);
