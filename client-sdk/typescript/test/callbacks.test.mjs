// What the application may do in the client's callbacks, and what it may give the client that is of no use.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import * as Client from '@online-status/client';
import { World } from './world.mjs';

const file = (name) => JSON.parse(readFileSync(new URL(`../../behaviour/${name}.json`, import.meta.url), 'utf8'));
const steps = ({ begin, steps }) => [...(begin ? steps(file(begin)) : []), ...steps];

/** A world in which the client is connected, on `a`. */
async function connected(options = {}) {
  const world = new World({ ...file('connected'), options }, Client);
  for (const step of file('connected').steps) await world.step(step);
  return world;
}

const bob = (version, status = 'online') => ({ user: 'bob', status, since: 1, devices: status === 'offline' ? 0 : 1, version });
const ids = (world, kind) => world.sockets.a.sent.filter(({ type }) => type === kind).map(({ id }) => id);
const say = (world, message) => world.step({ socket: 'a', say: message });

test('a watch that is ended in a callback is not called any more', async () => {
  const world = await connected();
  const called = [];
  const ends = [];
  for (const n of [0, 1, 2]) {
    ends.push(world.client.watch(['bob'], () => {
      called.push(n);
      ends[2]();
    }));
  }
  await world.settle();
  await say(world, { type: 'snapshot', id: ids(world, 'watch')[0], users: [bob(7)] });
  assert.deepEqual(called, [0, 1]);
});

test('who disconnects in a callback hears nothing more of the user before', async () => {
  const world = await connected();
  const called = [];
  world.client.watch(['bob'], () => world.client.disconnect());
  world.client.watch(['bob'], () => called.push(1));
  await world.settle();
  await say(world, { type: 'snapshot', id: ids(world, 'watch')[0], users: [bob(7)] });
  assert.deepEqual(called, []);
  assert.equal(world.client.get('bob'), undefined);
  assert.equal(world.client.state.state, 'disconnected');
});

test('a callback that watches anew at each change is called once a change', async () => {
  const world = await connected();
  let calls = 0;
  let end;
  const watch = () => {
    end?.();
    end = world.client.watch(['bob'], () => {
      if (++calls < 100) watch();
    });
  };
  world.client.watch(['bob']);
  watch();
  await world.settle();
  await say(world, { type: 'snapshot', id: ids(world, 'watch')[0], users: [bob(7)] });
  assert.equal(calls, 100, 'each new watch is told what is known');
  assert.equal(ids(world, 'watch').length, 1);
});

test('what is not of the protocol ends the connection, and another is made', async (t) => {
  for (const text of ['null', '5', '[]', '"x"', '{}', '{', '{"type":"presence"}', '{"type":"presence","users":[null]}', '{"type":"snapshot","users":{}}']) {
    await t.test(text, async () => {
      const world = await connected();
      const { a } = world.sockets;
      a.onmessage({ data: text });
      await world.settle();
      const { state, reason } = world.client.state;
      if (state === 'connected') return;
      assert.deepEqual([state, reason.code, reason.message], ['connecting', 1006, 'not a message of the protocol']);
      assert.equal(a.closed.length, 1);
      await world.advance(10_000);
      assert.ok(world.did.dial.length + world.did.route.length > 0);
    });
  }
});

test('without a WebSocket an error says what to do, and nothing is begun', () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  try {
    const options = { route: 'http://route.test', token: () => assert.fail('it is not asked') };
    assert.throws(() => Client.connect(options), /no WebSocket: use Node\.js 22, .*`\{ WebSocket \}` of the package ws/);
    Client.createPresence(options);
  } finally {
    if (WebSocket) globalThis.WebSocket = WebSocket;
  }
});

test('a route that answers something else is an error that names it', async (t) => {
  for (const [name, answer, says] of [
    ['HTML', () => new Response('<!doctype html>'), 'names no address'],
    ['nothing', () => new Response(null, { status: 204 }), 'names no address'],
    ['null', () => new Response('null'), 'names no address'],
    ['null, as an error', () => new Response('null', { status: 500 }), 'answers 500'],
    ['a number', () => Response.json({ address: 5 }), 'names no address'],
    ['no URL', () => Response.json({ address: 'ws://' }), 'nvalid URL'],
    ['a login page', () => new Response('<html>', { status: 401 }), 'answers 401'],
  ]) {
    await t.test(name, async () => {
      const token = `${btoa('{}')}.${btoa('{"sub":"alice"}')}.x`;
      const presence = Client.connect({ route: 'http://route.test', token: () => token, fetch: async () => answer(), random: () => 0.999, WebSocket: globalThis.WebSocket ?? class { constructor(url) { new URL(url); } } });
      while (!presence.state.reason) await new Promise((resolve) => setTimeout(resolve, 5));
      assert.ok(presence.state.reason.message.includes(says), presence.state.reason.message);
      presence.disconnect();
    });
  }
});

test('a token function that answers nonsense is asked again, and says why', async (t) => {
  for (const [name, token] of [
    ['throws', () => { throw new Error('no'); }],
    ['throws nothing', () => { throw undefined; }],
    ['is rejected with nothing', () => Promise.reject()],
    ['is rejected with an object', () => Promise.reject({ status: 500 })],
    ['null', () => null],
    ['a number', () => 5],
    ['an object', () => ({ token: 'x' })],
    ['text', async () => 'x.y.z'],
    ['a token of nobody', async () => `e30.${btoa('{"sub":""}')}.x`],
    ['a thenable', () => ({ then: (resolve) => resolve('x') })],
  ]) {
    await t.test(name, async () => {
      let calls = 0;
      const presence = Client.connect({ route: 'http://route.test', token: () => (calls++, token()), random: () => 0.01, WebSocket: class {}, fetch: () => assert.fail('it has no token') });
      while (calls < 2) await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal(presence.state.reason.code, 'token');
      presence.disconnect();
    });
  }
});
