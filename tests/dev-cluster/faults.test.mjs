// A whole cluster as its clients meet it, while edges are drained, stopped, killed and paused with
// scripts/dev-cluster: a user that comes back where it is sent is never shown offline.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { Cluster, freeBase, root } from './cluster.mjs';
import { Socket } from './socket.mjs';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';

const PATIENCE = 30000;
const EDGES = ['edge-1', 'edge-2', 'edge-3'];
const VNODES = 4096;

let cluster, coordinators, admin, tokenFile;
before(async () => {
  cluster = new Cluster(await freeBase());
  cluster.good('up', '--no-build', '--port-base', String(cluster.base));
  coordinators = cluster.env().COORDINATOR_URLS.split(',');
  admin = cluster.good('token', 'operator', 'presence:admin').trim();
  tokenFile = path.join(cluster.dir, 'administrator');
  fs.writeFileSync(tokenFile, admin);
});
after(() => cluster.remove());

async function until(what, look) {
  for (const deadline = Date.now() + PATIENCE; ; ) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < deadline, `no ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const route = (user, coordinator = coordinators[0]) => fetch(`${coordinator}/route?userId=${user}`).then((answer) => answer.json());

// The command line of the coordinator, as an administrator.
const binary = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release/online-status-coordinator');
const words = (given) => [...given, '--url', coordinators[0], '--token-file', tokenFile];
function coordinator(...given) {
  const done = spawnSync(binary, words(given), { encoding: 'utf8' });
  return { code: done.status, out: done.stdout, err: done.stderr };
}
// The same, while this process goes on.
async function coordinatorLater(...given) {
  const child = spawn(binary, words(given), { stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, err] = ['', ''];
  child.stdout.on('data', (piece) => (out += piece));
  child.stderr.on('data', (piece) => (err += piece));
  return { code: await new Promise((resolve) => child.on('close', resolve)), out, err };
}

// A user of that edge, by name.
async function userOf(edge, prefix) {
  for (let n = 0; n < 1000; n++) {
    if ((await route(`${prefix}${n}`)).node === edge) return `${prefix}${n}`;
  }
  assert.fail(`${edge} owns no user of 1000`);
}

// A session of the user, where the coordinator or the edge says.
async function session(user, address) {
  const socket = await Socket.open(address ?? (await route(user)).address, cluster.good('token', user).trim());
  socket.welcome = await socket.message('welcome', (message) => message.type === 'welcome');
  return socket;
}

// A session that watches; `shows` waits until it has seen a status of the user.
async function watcher(user, watched) {
  const socket = await session(user);
  socket.send({ type: 'watch', users: [watched], id: 1 });
  const records = (message) => message.users?.filter((record) => record.user === watched) ?? [];
  socket.shows = (status) => socket.message(`${watched} ${status}`, (message) => records(message).some((r) => r.status === status));
  socket.sawOffline = () => socket.messages.some((message) => records(message).some((r) => r.status === 'offline'));
  return socket;
}

// A user of one edge that is online and watched from another; in each test another user, since one
// that left a moment ago is what it was.
let times = 0;
async function watched(t, edge) {
  times += 1;
  const other = EDGES.find((name) => name !== edge);
  const user = await userOf(edge, `alice-${times}-`);
  const eyes = await watcher(await userOf(other, 'bob'), user);
  const own = await session(user);
  assert.equal(own.welcome.node, edge);
  t.after(() => [eyes, own].forEach((socket) => socket.destroy()));
  await eyes.shows('online');
  return { user, eyes, own };
}

// The user says something that only the session it has now can say, and the watcher sees it without
// having seen the user offline.
async function stillWatched({ user, eyes }, own) {
  assert.ok(!eyes.sawOffline(), `${user} was shown offline: ${JSON.stringify(eyes.messages)}`);
  own.send({ type: 'status', status: 'away', mode: 'auto', id: 2 });
  await eyes.shows('away');
}

// Every edge serves its whole share again: while the last vnodes of a rebalance are still to be moved,
// a user's edge is another a moment later.
async function restored(edge) {
  const share = Math.floor(VNODES / EDGES.length);
  if (cluster.state(edge) !== 'ready') cluster.good('start', edge);
  await until(`vnodes of ${edge}`, async () => {
    const { nodes } = await fetch(`${coordinators[0]}/nodes`).then((answer) => answer.json());
    return nodes.length === EDGES.length && nodes.every((node) => node.moving === 0 && node.vnodes >= share);
  });
}

test('both coordinators send a user to the same edge, and each edge sends strangers there', async () => {
  const [one, two] = await Promise.all(coordinators.map((coordinator) => route('carol', coordinator)));
  assert.deepEqual(one, two);
  const wrong = EDGES.find((name) => name !== one.node);
  const environment = cluster.env();
  const address = environment[`${wrong.toUpperCase().replace('-', '_')}_ADDRESS`];
  const socket = await Socket.open(address, cluster.good('token', 'carol').trim());
  assert.deepEqual(await socket.end(), { code: 4421, reason: one.address });
});

test('a change on one edge is seen by a watcher on another', async (t) => {
  const { eyes, own } = await watched(t, 'edge-1');
  own.send({ type: 'bye' });
  await eyes.shows('offline');
});

test('the whole way of a status from one edge to a watcher on another is counted where it ends', async (t) => {
  const { eyes, own } = await watched(t, 'edge-1');
  const page = cluster.env()[`${eyes.welcome.node.toUpperCase().replace('-', '_')}_ADMIN`];
  const whole = async (part) => {
    const text = await (await fetch(`${page}/metrics`)).text();
    return Number(text.match(new RegExp(`^online_status_end_to_end_seconds_${part} (\\S+)$`, 'm'))[1]);
  };
  const before = await whole('count');
  own.send({ type: 'status', status: 'away', id: 1 });
  await eyes.shows('away');
  await until('count of it', async () => (await whole('count')) > before);
  assert.ok((await whole('sum')) < 60);
});

// What all edges answer an administrator.
async function asked(path) {
  const answer = await fetch(`${coordinators[1]}/${path}`, { headers: { authorization: `Bearer ${admin}` } });
  assert.equal(answer.status, 200);
  return answer.json();
}

test('who watches a user is answered by every edge, and so is who is slow', async (t) => {
  const { user, eyes } = await watched(t, 'edge-1');
  const found = await until('an answer of every edge', async () => {
    const found = await asked(`watchers?userId=${user}`);
    return found.silent.length === 0 && found;
  });
  assert.deepEqual(found, {
    user, total: 1, notNamed: 0, silent: [],
    nodes: EDGES.map((node) => ({ node, total: node === eyes.welcome.node ? 1 : 0 })),
    sessions: [{ node: eyes.welcome.node, user: eyes.welcome.user, session: eyes.welcome.session }],
  });
  const slow = await asked('slow');
  assert.deepEqual([slow.total, slow.sessions], [0, []]);
  assert.equal((await fetch(`${coordinators[1]}/slow`)).status, 401);
});

// Steps of the user in the order of their times, once they are what is wanted: each edge brings its own.
async function traced(user, wanted) {
  const steps = async () => {
    const done = coordinator('trace', '--user', user, '--json');
    assert.equal(done.code, 0, done.err);
    const all = done.out.trim().split('\n').filter(Boolean).map((line) => JSON.parse(line));
    return wanted(all) && all;
  };
  return until('steps', steps);
}

test('a trace has the steps of a change in order, from its session to a watcher on another edge', async (t) => {
  const { user, eyes, own } = await watched(t, 'edge-1');
  const started = coordinator('trace', '--user', user, '--start', '2');
  assert.equal(started.code, 0, started.err);
  // Until all nodes follow the user, it changes now and then.
  let [status, version] = ['away', 0];
  const both = await until('trace on both edges', async () => {
    own.send({ type: 'status', status, id: 1 });
    await eyes.shows(status);
    status = status === 'away' ? 'online' : 'away';
    const { steps } = await (await fetch(`${coordinators[0]}/trace?userId=${user}`, { headers: { authorization: `Bearer ${admin}` } })).json();
    version = steps.find((step) => step.event === 'changed')?.version;
    return version && steps.some((step) => step.event === 'delivered' && step.version >= version && step.node !== 'edge-1');
  });
  assert.ok(both);
  own.send({ type: 'status', mode: 'busy', id: 2 });
  await eyes.shows('busy');
  const busy = (all) => all.find((step) => step.event === 'delivered' && step.status === 'busy');
  const stages = ['changed', 'stored', 'published', 'link_sent', 'received', 'delivered'];
  const steps = await traced(user, (all) => stages.every((event) => all.some((step) => step.event === event && step.version === busy(all)?.version)));
  const last = busy(steps);
  const way = steps.filter((step) => step.version === last.version && step.event !== 'status_taken');
  const at = (event) => way.findIndex((step) => step.event === event);
  for (const [before, after] of [['changed', 'link_sent'], ['link_sent', 'received'], ['received', 'delivered'], ['changed', 'store_sent'], ['store_sent', 'stored'], ['bus_sent', 'published']]) {
    assert.ok(at(before) >= 0 && at(before) < at(after), `${before}, ${after}: ${JSON.stringify(way)}`);
  }
  const [changed, received, delivered] = ['changed', 'received', 'delivered'].map((event) => way[at(event)]);
  assert.deepEqual([changed.node, changed.cause, received.from], ['edge-1', 'status', 'link']);
  assert.deepEqual([delivered.node, delivered.watchers], [eyes.welcome.node, 1]);
  assert.ok(steps.some((step) => step.event === 'status_taken' && step.session === own.welcome.session));
  const table = coordinator('trace', '--user', user).out;
  assert.match(table, /link_sent\n.* received from link\n.* delivered to 1 watcher\n/s);

  // The same as spans, at a collector.
  const requests = [];
  const collector = http.createServer((request, response) => {
    const pieces = [];
    request.on('data', (piece) => pieces.push(piece));
    request.on('end', () => {
      requests.push({ url: request.url, type: request.headers['content-type'], body: JSON.parse(Buffer.concat(pieces)) });
      response.setHeader('content-type', 'application/json').end('{"partialSuccess":{}}');
    });
  });
  await new Promise((resolve) => collector.listen(0, '127.0.0.1', resolve));
  t.after(() => collector.close());
  const sent = await coordinatorLater('trace', '--user', user, '--otlp', `http://127.0.0.1:${collector.address().port}`);
  assert.equal(sent.code, 0, sent.err);
  const [{ url, type, body }] = requests;
  assert.deepEqual([url, type, Object.keys(body)], ['/v1/traces', 'application/json', ['resourceSpans']]);
  const spans = body.resourceSpans.flatMap(({ resource, scopeSpans, ...rest }) => {
    assert.deepEqual(rest, {});
    assert.equal(resource.attributes.find(({ key }) => key === 'service.name').value.stringValue, 'online-status-edge');
    return scopeSpans.flatMap(({ scope, spans }) => (assert.equal(scope.name, 'online-status'), spans));
  });
  // The members of opentelemetry.proto.trace.v1.Span that are sent, by the JSON mapping of OTLP.
  const members = { traceId: /^[0-9a-f]{32}$/, spanId: /^[0-9a-f]{16}$/, parentSpanId: /^[0-9a-f]{16}$/, name: /./, kind: 1, startTimeUnixNano: /^\d{19}$/, endTimeUnixNano: /^\d{19}$/, attributes: [] };
  for (const span of spans) {
    for (const [name, value] of Object.entries(span)) {
      const wanted = members[name] ?? assert.fail(name);
      if (wanted instanceof RegExp) assert.match(value, wanted, name);
      else assert.equal(typeof value, typeof wanted, name);
    }
    assert.ok(BigInt(span.startTimeUnixNano) <= BigInt(span.endTimeUnixNano));
    for (const { key, value } of span.attributes) {
      const [kind, ...none] = Object.keys(value);
      assert.deepEqual([['stringValue', 'intValue'].includes(kind), typeof value[kind], none], [true, 'string', []], key);
    }
  }
  const roots = spans.filter((span) => !span.parentSpanId);
  assert.equal(new Set(spans.map((span) => span.spanId)).size, spans.length);
  assert.equal(new Set(spans.map((span) => span.traceId)).size, roots.length);
  for (const span of spans.filter((span) => span.parentSpanId)) assert.ok(roots.some((root) => root.spanId === span.parentSpanId && root.traceId === span.traceId));
  assert.ok(spans.length >= steps.length + roots.length);

  // As they come, each once, until the trace ends.
  const followed = coordinatorLater('trace', '--user', user, '--follow', '--json');
  own.send({ type: 'status', mode: 'auto', id: 3 });
  const known = await traced(user, (all) => all.some((step) => step.event === 'delivered' && step.version > last.version));
  assert.equal(coordinator('trace', '--user', user, '--stop').code, 0);
  const { code, out, err } = await followed;
  assert.equal(code, 0, err);
  const lines = out.trim().split('\n');
  assert.equal(new Set(lines).size, lines.length, out);
  for (const step of known) assert.ok(lines.includes(JSON.stringify(step)), `${JSON.stringify(step)} is not in ${out}`);

  assert.equal(coordinator('trace', '--user', user, '--stop').code, 1);
  const never = coordinator('trace', '--user', 'nobody-at-all');
  assert.deepEqual([never.code, never.err.includes('start with --start')], [1, true]);
});

test('a drained edge sends its sessions away, and gets vnodes again afterwards', async (t) => {
  const all = await watched(t, 'edge-2');
  const order = (what) =>
    fetch(`${coordinators[1]}/nodes/edge-2/${what}`, { method: 'POST', headers: { authorization: `Bearer ${admin}` } });
  assert.ok((await order('drain')).ok);
  const { address } = await all.own.message('move', (message) => message.type === 'move');
  assert.equal((await all.own.end()).code, 1012);
  const moved = await session(all.user, address);
  t.after(() => moved.destroy());
  assert.notEqual(moved.welcome.node, 'edge-2');
  await stillWatched(all, moved);
  assert.ok((await order('undrain')).ok);
  await restored('edge-2');
});

test('an edge that is stopped sends its sessions away', async (t) => {
  const all = await watched(t, 'edge-1');
  const stopped = cluster.begin('stop', 'edge-1');
  const { address } = await all.own.message('move', (message) => message.type === 'move');
  assert.equal((await all.own.end()).code, 1012);
  const moved = await session(all.user, address);
  t.after(() => moved.destroy());
  await stillWatched(all, moved);
  assert.equal(await stopped, 0);
  await restored('edge-1');
});

test('the users of an edge that is killed come back on the others', async (t) => {
  const all = await watched(t, 'edge-3');
  cluster.good('kill', 'edge-3');
  assert.equal((await all.own.end()).code, 1006);
  await until('new route', async () => (await route(all.user)).node !== 'edge-3');
  const moved = await session(all.user);
  t.after(() => moved.destroy());
  await stillWatched(all, moved);
  await restored('edge-3');
});

test('an edge that stood still for a moment keeps its sessions', async (t) => {
  const all = await watched(t, 'edge-1');
  cluster.good('pause', 'edge-1');
  await new Promise((resolve) => setTimeout(resolve, 2000));
  cluster.good('resume', 'edge-1');
  await stillWatched(all, all.own);
});

test('without Redis sessions live on, and their changes are seen everywhere', async (t) => {
  const all = await watched(t, 'edge-2');
  cluster.good('kill', 'redis');
  all.own.send({ type: 'status', mode: 'busy', id: 3 });
  await all.eyes.shows('busy');
  cluster.good('start', 'redis');
  await stillWatched(all, all.own);
});

test('without Kafka sessions live on, and what changed is seen when it is back', async (t) => {
  const all = await watched(t, 'edge-2');
  cluster.good('kill', 'kafka');
  all.own.send({ type: 'status', mode: 'busy', id: 3 });
  await all.own.message('answer', (message) => message.type === 'ok' && message.id === 3);
  cluster.good('start', 'kafka');
  await all.eyes.shows('busy');
  await stillWatched(all, all.own);
});

test('a coordinator that is killed is missed by nobody', async (t) => {
  const all = await watched(t, 'edge-1');
  cluster.good('kill', 'coordinator-1');
  assert.equal((await route(all.user, coordinators[1])).node, 'edge-1');
  await stillWatched(all, all.own);
  cluster.good('start', 'coordinator-1');
});

test('a block list is decreed and read, and Redis has refused nothing that edges and coordinators asked', async () => {
  const url = (at) => `${coordinators[at]}/blocks?userId=alice`;
  const headers = { authorization: `Bearer ${admin}` };
  const decreed = await fetch(url(0), { method: 'PUT', headers, body: '{"users":["eve"]}' });
  assert.equal(decreed.status, 200, await decreed.text());
  await until('the block list at the other coordinator', async () => (await (await fetch(url(1), { headers })).text()).includes('eve'));
  // They have the rights of redis/README.md alone.
  const refused = spawnSync('redis-cli', ['-p', String(cluster.base), 'acl', 'log'], { encoding: 'utf8' });
  assert.equal(refused.status, 0, refused.stderr);
  assert.equal(refused.stdout.trim(), '');
  for (const name of [...EDGES, 'coordinator-1', 'coordinator-2']) {
    assert.doesNotMatch(fs.readFileSync(path.join(cluster.dir, name, 'log'), 'utf8'), /NOPERM|no permissions/, name);
  }
});
