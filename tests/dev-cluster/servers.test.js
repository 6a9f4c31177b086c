// scripts/dev-cluster as its users meet it, without edges and coordinators: Redis and Kafka start,
// are killed, paused and stopped, and what the script did not start is left alone.
'use strict';
const { test, before, after } = require('node:test');
const assert = require('node:assert');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');

const root = path.join(__dirname, '../..');

function listen(port) {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve(server));
  });
}

// Below the ports that the kernel gives to clients.
async function freeBase() {
  for (let at = process.pid; ; at++) {
    const base = 30100 + (at % 26) * 100;
    try {
      for (const port of [base, base + 1, base + 2]) (await listen(port)).close();
      return base;
    } catch {}
  }
}

class Cluster {
  constructor(base) {
    this.base = base;
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-dev-cluster-'));
  }

  run(...words) {
    const environment = { ...process.env, ONLINE_STATUS_DEV_DIR: this.dir };
    delete environment.JWT_SECRET;
    const done = spawnSync(path.join(root, 'scripts/dev-cluster'), words, { env: environment, encoding: 'utf8' });
    return { code: done.status, out: done.stdout, err: done.stderr };
  }

  good(...words) {
    const done = this.run(...words);
    assert.strictEqual(done.code, 0, `${words.join(' ')}: ${done.out}${done.err}`);
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
function alive(pid) {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2)[0] !== 'Z';
  } catch {
    return false;
  }
}

// What Redis answers to one inline command.
function redis(port, command) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(`${command}\r\n`));
    let text = '';
    socket.setTimeout(20000, () => socket.destroy(new Error('Redis does not answer')));
    socket.on('error', reject);
    socket.on('data', (data) => {
      text += data;
      if (text.endsWith('\r\n')) socket.end();
    });
    socket.on('close', () => resolve(text));
  });
}

let cluster;
before(async () => {
  cluster = new Cluster(await freeBase());
  cluster.good('up', '--only', 'redis,kafka', '--port-base', String(cluster.base));
});
after(() => cluster.remove());

test('up waits until Redis and Kafka answer, and makes the topic', async () => {
  assert.strictEqual(await redis(cluster.base, 'PING'), '+PONG\r\n');
  assert.strictEqual(cluster.run('status').code, 0);
  const { KAFKA_BROKERS, REDIS_URL } = cluster.env();
  assert.strictEqual(REDIS_URL, `redis://127.0.0.1:${cluster.base}`);
  const libs = spawnSync(path.join(root, 'scripts/fetch-kafka'), { encoding: 'utf8' }).stdout.trim();
  const tool = ['-Xmx256m', '-cp', `${libs}/*`, 'org.apache.kafka.tools.TopicCommand', '--bootstrap-server', KAFKA_BROKERS];
  const described = spawnSync('java', [...tool, '--describe', '--topic', 'user_status_events'], { encoding: 'utf8' });
  assert.match(described.stdout, /PartitionCount: 16\b/);
});

test('a second up leaves what runs alone', () => {
  const earlier = cluster.env();
  cluster.good('up');
  assert.deepStrictEqual(cluster.env(), earlier);
});

test('Redis and Kafka are killed and started again with their data', async () => {
  await redis(cluster.base, 'SET kept 1');
  const earlier = cluster.env();
  for (const name of ['redis', 'kafka']) {
    cluster.good('kill', name);
    assert.strictEqual(cluster.state(name), 'ended');
    assert.strictEqual(alive(Number(earlier[`${name.toUpperCase()}_PID`])), false);
  }
  assert.strictEqual(cluster.run('status').code, 1);
  const again = cluster.run('kill', 'redis');
  assert.strictEqual(again.code, 1);
  assert.match(again.err, /redis does not run/);
  cluster.good('start', 'redis');
  cluster.good('start', 'kafka');
  assert.strictEqual(await redis(cluster.base, 'GET kept'), '$1\r\n1\r\n');
  assert.strictEqual(cluster.run('status').code, 0);
});

test('a paused Redis is not ready until it is resumed, and can be stopped while it is paused', () => {
  cluster.good('pause', 'redis');
  assert.strictEqual(cluster.state('redis'), 'paused');
  cluster.good('resume', 'redis');
  assert.strictEqual(cluster.state('redis'), 'ready');
  cluster.good('pause', 'redis');
  cluster.good('stop', 'redis');
  assert.strictEqual(cluster.state('redis'), 'stopped');
  cluster.good('start', 'redis');
});

test('a process that took over the number of ours is not signalled', () => {
  const file = path.join(cluster.dir, 'redis/pid');
  const ours = fs.readFileSync(file, 'utf8');
  const stranger = spawn('sleep', ['60'], { stdio: 'ignore' });
  try {
    const [, ...rest] = ours.split(' ');
    fs.writeFileSync(file, [stranger.pid, ...rest].join(' '));
    assert.strictEqual(cluster.state('redis'), 'ended');
    assert.strictEqual(cluster.run('kill', 'redis').code, 1);
    cluster.good('stop', 'redis');
    assert.ok(alive(stranger.pid));
    const started = cluster.run('start', 'redis');
    assert.strictEqual(started.code, 1);
    assert.match(started.err, new RegExp(`something else listens on port ${cluster.base}`));
  } finally {
    stranger.kill();
    fs.writeFileSync(file, ours);
  }
  assert.strictEqual(cluster.state('redis'), 'ready');
});

test('two clusters run at once, and each ends its own', async () => {
  const other = new Cluster(await freeBase());
  try {
    other.good('up', '--only', 'redis', '--port-base', String(other.base));
    assert.notStrictEqual(other.env().JWT_SECRET, cluster.env().JWT_SECRET);
    other.good('down');
    assert.deepStrictEqual(fs.readdirSync(other.dir), ['lock']);
    await assert.rejects(redis(other.base, 'PING'));
    assert.strictEqual(cluster.run('status').code, 0);
  } finally {
    other.remove();
  }
});

test('wrong usage is named and exits with 2', () => {
  for (const [words, message] of [
    [['start', 'edge-0'], /"edge-0" is no name/],
    [['up', '--edges', 'many'], /--edges many: allowed are 0 to 29/],
    [['up', '--only'], /--only needs a value/],
    [['sing'], /there is no command sing/],
  ]) {
    const done = cluster.run(...words);
    assert.strictEqual(done.code, 2, words.join(' '));
    assert.match(done.err, message);
  }
  const moved = cluster.run('up', '--port-base', '29000');
  assert.strictEqual(moved.code, 1);
  assert.match(moved.err, /down comes before/);
});

test('down ends all and keeps the data when it shall', async () => {
  const { REDIS_PID, KAFKA_PID, JWT_SECRET } = cluster.env();
  cluster.good('down', '--keep-data');
  assert.ok(!alive(Number(REDIS_PID)) && !alive(Number(KAFKA_PID)));
  cluster.good('up', '--only', 'redis');
  assert.strictEqual(await redis(cluster.base, 'GET kept'), '$1\r\n1\r\n');
  assert.strictEqual(cluster.env().JWT_SECRET, JWT_SECRET);
  cluster.good('down');
  assert.deepStrictEqual(fs.readdirSync(cluster.dir), ['lock']);
});
