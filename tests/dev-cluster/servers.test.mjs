// scripts/dev-cluster as its users meet it, without edges and coordinators: Redis and Kafka start,
// are killed, paused and stopped, and what the script did not start is left alone.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { Cluster, alive, freeBase, root } from './cluster.mjs';

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

// What Kafka's own tool prints about topics; it has to succeed.
function topic(...words) {
  const libs = spawnSync(path.join(root, 'scripts/fetch-kafka'), { encoding: 'utf8' }).stdout.trim();
  const server = ['--bootstrap-server', cluster.env().KAFKA_BROKERS];
  const tool = ['-Xmx256m', '-cp', `${libs}/*`, 'org.apache.kafka.tools.TopicCommand', ...server, ...words];
  const done = spawnSync('java', tool, { encoding: 'utf8' });
  assert.equal(done.status, 0, done.stdout + done.stderr);
  return done.stdout;
}

let cluster;
before(async () => {
  cluster = new Cluster(await freeBase());
  cluster.good('up', '--only', 'redis,kafka', '--port-base', String(cluster.base));
});
after(() => cluster.remove());

test('up waits until Redis and Kafka answer', async () => {
  assert.equal(await redis(cluster.base, 'PING'), '+PONG\r\n');
  assert.equal(cluster.run('status').code, 0);
  assert.equal(cluster.env().REDIS_URL, `redis://127.0.0.1:${cluster.base}`);
  topic('--create', '--topic', 'kept', '--partitions', '3');
});

test('a second up leaves what runs alone', () => {
  const earlier = cluster.env();
  cluster.good('up');
  assert.deepEqual(cluster.env(), earlier);
});

test('Redis and Kafka are killed and started again with their data', async () => {
  await redis(cluster.base, 'SET kept 1');
  const earlier = cluster.env();
  for (const name of ['redis', 'kafka']) {
    cluster.good('kill', name);
    assert.equal(cluster.state(name), 'ended');
    assert.equal(alive(Number(earlier[`${name.toUpperCase()}_PID`])), false);
  }
  assert.equal(cluster.run('status').code, 1);
  const again = cluster.run('kill', 'redis');
  assert.equal(again.code, 1);
  assert.match(again.err, /redis does not run/);
  cluster.good('start', 'redis');
  cluster.good('start', 'kafka');
  assert.equal(await redis(cluster.base, 'GET kept'), '$1\r\n1\r\n');
  assert.match(topic('--describe', '--topic', 'kept'), /PartitionCount: 3\b/);
  assert.equal(cluster.run('status').code, 0);
});

test('a paused Redis is not ready until it is resumed, and can be stopped while it is paused', () => {
  cluster.good('pause', 'redis');
  assert.equal(cluster.state('redis'), 'paused');
  cluster.good('resume', 'redis');
  assert.equal(cluster.state('redis'), 'ready');
  cluster.good('pause', 'redis');
  cluster.good('stop', 'redis');
  assert.equal(cluster.state('redis'), 'stopped');
  cluster.good('start', 'redis');
});

test('a process that took over the number of ours is not signalled', () => {
  const file = path.join(cluster.dir, 'redis/pid');
  const ours = fs.readFileSync(file, 'utf8');
  const stranger = spawn('sleep', ['60'], { stdio: 'ignore' });
  try {
    const [, ...rest] = ours.split(' ');
    fs.writeFileSync(file, [stranger.pid, ...rest].join(' '));
    assert.equal(cluster.state('redis'), 'ended');
    assert.equal(cluster.run('kill', 'redis').code, 1);
    cluster.good('stop', 'redis');
    assert.ok(alive(stranger.pid));
    const started = cluster.run('start', 'redis');
    assert.equal(started.code, 1);
    assert.match(started.err, new RegExp(`something else listens on port ${cluster.base}`));
  } finally {
    stranger.kill();
    fs.writeFileSync(file, ours);
  }
  assert.equal(cluster.state('redis'), 'ready');
});

test('two clusters run at once, and each ends its own', async () => {
  const other = new Cluster(await freeBase());
  try {
    other.good('up', '--only', 'redis', '--port-base', String(other.base));
    assert.notEqual(other.env().JWT_SECRET, cluster.env().JWT_SECRET);
    other.good('down');
    assert.deepEqual(fs.readdirSync(other.dir), ['lock']);
    await assert.rejects(redis(other.base, 'PING'));
    assert.equal(cluster.run('status').code, 0);
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
    assert.equal(done.code, 2, words.join(' '));
    assert.match(done.err, message);
  }
  const moved = cluster.run('up', '--port-base', '29000');
  assert.equal(moved.code, 1);
  assert.match(moved.err, /down comes before/);
});

test('down ends all and keeps the data when it shall', async () => {
  const { REDIS_PID, KAFKA_PID, JWT_SECRET } = cluster.env();
  cluster.good('down', '--keep-data');
  assert.ok(!alive(Number(REDIS_PID)) && !alive(Number(KAFKA_PID)));
  cluster.good('up', '--only', 'redis');
  assert.equal(await redis(cluster.base, 'GET kept'), '$1\r\n1\r\n');
  assert.equal(cluster.env().JWT_SECRET, JWT_SECRET);
  cluster.good('down');
  assert.deepEqual(fs.readdirSync(cluster.dir), ['lock']);
});
