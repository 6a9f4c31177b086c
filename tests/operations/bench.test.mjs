// The bench against a real edge: TLS, CBOR, scenario files, and what it says when something is not there.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const binary = (name) => path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release', name);
const EDGE = process.env.EDGE_BIN ?? binary('online-status-edge');
const BENCH = process.env.BENCH_BIN ?? binary('online-status-bench');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-bench-'));
const edges = [];
let plain, secure;

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function edge(...words) {
  const [port, admin] = [await freePort(), await freePort()];
  const child = spawn(EDGE, ['standalone', '--listen', `127.0.0.1:${port}`, '--server-admin-listen', `127.0.0.1:${admin}`, ...words],
    { stdio: ['ignore', 'ignore', 'inherit'] });
  edges.push(child);
  for (const deadline = Date.now() + 20000; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    if (await fetch(`http://127.0.0.1:${admin}/readyz`).then((answer) => answer.ok, () => false)) return port;
    assert.ok(Date.now() < deadline, 'the edge never was ready');
  }
}

function openssl(...words) {
  const done = spawnSync('openssl', words, { cwd: folder, encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
}

const bench = (...words) => spawnSync(BENCH, words, { encoding: 'utf8', cwd: folder });

async function benchMeanwhile(...words) {
  const child = spawn(BENCH, words, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) child[name].on('data', (data) => { said[name] += data; });
  await once(child, 'close');
  return said;
}

const load = (...words) => ['presence', '--sessions', '40', '--watch', '5', '--rate', '60', '--duration', '2', '--json', '--quiet', ...words];

// What failed, but for a bench that was not punctual on a busy machine.
function wrong({ stdout, stderr }) {
  assert.notEqual(stdout, '', stderr);
  return JSON.parse(stdout).failures.filter((failure) => !failure.startsWith('INVALID'));
}

before(async () => {
  for (const name of ['ca', 'other']) {
    openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-keyout', `${name}.key`,
      '-out', `${name}.pem`, '-subj', `/CN=${name}`);
  }
  openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', 'edge.key', '-out', 'edge.csr', '-subj', '/CN=edge');
  fs.writeFileSync(path.join(folder, 'names'), 'subjectAltName=IP:127.0.0.1\n');
  openssl('x509', '-req', '-in', 'edge.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'names', '-out', 'edge.pem');
  plain = await edge();
  secure = await edge('--tls-certificate', path.join(folder, 'edge.pem'), '--tls-key', path.join(folder, 'edge.key'));
});

after(() => {
  for (const child of edges) child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
});

test('JSON and CBOR, with TLS and without, judge a good edge alike', async () => {
  const runs = [];
  for (const encoding of ['json', 'cbor']) {
    for (const words of [['--url', `ws://127.0.0.1:${plain}/socket`], ['--url', `wss://127.0.0.1:${secure}/socket`, '--ca', 'ca.pem']]) {
      runs.push(benchMeanwhile(...load('--encoding', encoding, ...words)).then((done) => [encoding, done]));
    }
  }
  const answers = [];
  for (const [encoding, done] of await Promise.all(runs)) {
    assert.deepEqual(wrong(done), [], done.stdout);
    const { counts } = JSON.parse(done.stdout);
    assert.equal(counts.delivered, counts.expected);
    assert.ok(counts.expected > 300);
    answers.push([encoding, counts.tls_full + counts.tls_resumed >= 40]);
  }
  assert.deepEqual(answers, [['json', false], ['json', true], ['cbor', false], ['cbor', true]]);
});

test('an edge spoken to as a server of another kind passes on all changes, one by one and in bursts', async () => {
  const file = path.join(root, 'bench/scenarios/servers/online-status.toml');
  const words = ['run', file, '--url', `ws://127.0.0.1:${plain}/socket`, '--sessions', '30', '--duration', '2', '--json', '--quiet'];
  const runs = [[], ['--publishers', '5', '--burst', '5']].map((more) => benchMeanwhile(...words, ...more));
  for (const done of await Promise.all(runs)) {
    assert.deepEqual(wrong(done), [], done.stdout);
    const { counts } = JSON.parse(done.stdout);
    assert.deepEqual([counts.expected, counts.delivered + counts.conflated], [600, 600], done.stdout);
  }
});

test('whoever comes back after a storm brings the ticket of its first TLS session', () => {
  const done = bench('storm', '--sessions', '30', '--watch', '5', '--url', `wss://127.0.0.1:${secure}/socket`, '--ca', 'ca.pem', '--json', '--quiet');
  assert.deepEqual(wrong(done), [], done.stdout);
  const { counts } = JSON.parse(done.stdout);
  assert.deepEqual([counts.tls_full, counts.tls_resumed], [30, 30], done.stdout);
});

test('what is not there, or not as it should be, is said at once with what to do', async () => {
  const nobody = await freePort();
  const url = (scheme, port) => ['--url', `${scheme}://127.0.0.1:${port}/socket`];
  for (const [words, parts] of [
    [url('ws', nobody), [`127.0.0.1:${nobody}`, 'refused', 'is the server started']],
    [[...url('wss', secure), '--ca', 'other.pem'], ['certificate', '--ca FILE']],
    [[...url('wss', secure), '--ca', 'names'], ['--ca names', 'PEM']],
    [[...url('wss', secure), '--ca', 'absent'], ['--ca absent', 'No such file']],
    [['--url', `wss://localhost:${secure}/socket`, '--ca', 'ca.pem'], ['localhost', 'name', '--ca FILE']],
    [url('wss', plain), ['no TLS there', 'ws://']],
    [url('ws', secure), ['without TLS?']],
    [['--url', `ws://127.0.0.1:${plain}/sockets`], ['404', '/socket']],
    [[...url('ws', plain), '--secret', 'quite another secret, long enough for HS256'], ['401', '--secret', 'JWT_SECRET']],
    [[...url('ws', plain), '--report', 'no/such/folder.html'], ['--report no/such/folder.html', 'a file that can be written']],
  ]) {
    const began = Date.now();
    const { status, stderr } = bench(...load(...words));
    assert.equal(status, 2, stderr);
    for (const part of parts) assert.ok(stderr.includes(part), `${words.join(' ')}: without ${part}: ${stderr}`);
    assert.ok(Date.now() - began < 30000);
  }
});

test('scenario files are read and run, and a mistake in one is named with its line', () => {
  const examples = path.join(root, 'bench', 'scenarios');
  const files = fs.readdirSync(examples).filter((file) => file.endsWith('.toml'));
  assert.ok(files.length >= 4);
  for (const file of files) {
    const { status, stdout, stderr } = bench('run', path.join(examples, file), '--check');
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^online-status-bench (connect|presence|fanout|storm) .*--sessions=\d+/);
  }
  const done = bench('run', path.join(examples, 'small.toml'), '--url', `ws://127.0.0.1:${plain}/socket`, '--json', '--quiet', '--label', 'small');
  assert.deepEqual(wrong(done), [], done.stdout);
  const report = JSON.parse(done.stdout);
  assert.deepEqual([report.label, report.sessions, report.options.duration], ['small', 20, 2]);

  const text = fs.readFileSync(path.join(examples, 'small.toml'), 'utf8');
  for (const [from, to, said] of [
    ['duration = 2', 'duration = "soon"', /broken\.toml:7: duration: .*soon/],
    ['duration = 2', 'duratoin = 2', /broken\.toml:7: unknown key duratoin; is duration meant\?/],
    ['duration = 2', 'duration = -2', /broken\.toml:7: --duration -2: it must be 0 to/],
    ['duration = 2', 'duration 2', /broken\.toml.*line 7/s],
    ['command = "presence"', '', /broken\.toml: it has no key command/],
  ]) {
    fs.writeFileSync(path.join(folder, 'broken.toml'), text.replace(from, to));
    const { status, stderr } = bench('run', 'broken.toml', '--url', `ws://127.0.0.1:${plain}/socket`);
    assert.equal(status, 2, stderr);
    assert.match(stderr, said);
  }
});
