// A whole cluster as its clients meet it, while edges are drained, stopped, killed and paused with
// scripts/dev-cluster: a user that comes back where it is sent is never shown offline.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { Cluster, freeBase } from './cluster.mjs';
import { Socket } from './socket.mjs';

const PATIENCE = 30000;
const EDGES = ['edge-1', 'edge-2', 'edge-3'];
const VNODES = 4096;

let cluster, coordinators, admin;
before(async () => {
  cluster = new Cluster(await freeBase());
  cluster.good('up', '--no-build', '--port-base', String(cluster.base));
  coordinators = cluster.env().COORDINATOR_URLS.split(',');
  admin = cluster.good('token', 'operator', 'presence:admin').trim();
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
