// An edge behind the proxies that people have, with the files of packaging/proxies: nginx, HAProxy and
// Caddy end TLS, and HAProxy passes TCP connections on with a PROXY protocol header.
import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { Edge, Folder, Proxy, open2, sleep, stream2, until } from './around.mjs';

const TRUST = ['--server-trusted-proxies', '127.0.0.1'];
const TCP = [...TRUST, '--server-proxy-protocol', 'true'];
const certificate = () => ['--tls-certificate', folder.file('chain.pem'), '--tls-key', folder.file('key.pem')];
let folder;

before(() => { folder = new Folder(); });
after(() => folder.remove());

/** A process that ends with the test: a user's edges share its limit of locked memory. */
async function started(t, process) {
  const it = await process;
  t.after(() => it.stop());
  return it;
}

async function edgeAndProxy(t, kind, flags, changes) {
  const edge = await started(t, Edge.start(...flags));
  return [edge, await started(t, Proxy.start(kind, folder, [edge], changes))];
}

async function welcomed(socket, user) {
  assert.equal(typeof socket, 'object', `refused with ${socket}`);
  const welcome = await socket.message('welcome', (message) => message.type === 'welcome');
  assert.equal(welcome.user, user);
  return socket;
}

async function works(socket) {
  socket.send({ type: 'ping', id: 'alive' });
  await socket.message('pong', (message) => message.type === 'pong' && message.id === 'alive');
}

describe('behind a proxy', { concurrency: 4 }, () => {
  for (const kind of ['nginx', 'haproxy', 'caddy']) {
    test(`${kind} ends TLS: who connects is told, and where, by HTTP/1.1 and by HTTP/2`, async (t) => {
      const flags = [...TRUST, '--server-max-per-address', '1', '--server-max-header', '32KiB'];
      const [edge, proxy] = await edgeAndProxy(t, kind, flags);
      const authority = `localhost:${proxy.port}`;
      // As long as a token may be.
      const cookie = 'c'.repeat(16384);
      const alice = await welcomed(await proxy.open('alice', { from: '127.0.0.2', headers: { cookie } }), 'alice');
      const bob = await welcomed(await proxy.open('bob', { from: '127.0.0.3' }), 'bob');
      // They are two to the edge, and one is not another by what it says itself.
      const otherwise = [{}, { 'x-forwarded-for': '192.0.2.9' }, { forwarded: 'for=192.0.2.9', 'x-real-ip': '192.0.2.9' }];
      for (const headers of otherwise) {
        assert.equal(await proxy.open('late', { from: '127.0.0.2', headers }), 429);
      }
      alice.send({ type: 'watch', users: ['bob'], id: 1 });
      const { users } = await alice.message('snapshot', (message) => message.type === 'snapshot');
      assert.deepEqual(users.map((record) => [record.user, record.status]), [['bob', 'online']]);
      bob.send({ type: 'status', status: 'away', id: 2 });
      await alice.message('bob away', (message) => message.users?.[0].status === 'away');

      const spoofed = { 'x-forwarded-proto': 'http', 'x-forwarded-host': 'evil.example' };
      const route = await proxy.get('/route?userId=a', { from: '127.0.0.4', headers: spoofed });
      assert.equal(JSON.parse(route.body).address, `wss://${authority}/socket`);
      assert.equal((await proxy.get('/metrics')).status, 404);

      const { session, websockets } = await proxy.http2();
      const page = await stream2(session, { ':path': '/route?userId=a', ':authority': authority });
      assert.equal(page.status, 200);
      let body = '';
      for await (const data of page.stream) body += data;
      assert.equal(JSON.parse(body).address, `wss://${authority}/socket`);
      // With the others a browser opens its WebSockets by HTTP/1.1, as above.
      assert.equal(websockets, kind === 'haproxy');
      if (websockets) {
        const carol = await welcomed(await open2(session, authority, 'carol'), 'carol');
        await works(carol);
        carol.send({ type: 'bye' });
        assert.equal((await carol.end()).code, 1000);
      }
      session.destroy();
      await Promise.all([works(alice), works(bob)]);
      await until('the edge counts them', async () => await edge.metric('sessions') === 2);
      alice.send({ type: 'bye' });
      assert.equal((await alice.end()).code, 1000);
      bob.destroy();
      await until('the edge sees both go', async () => await edge.metric('connections') <= 2);
    });
  }

  // What ends a silent WebSocket in each file; Caddy has no such time-out.
  const idle = {
    nginx: [['proxy_read_timeout 60s', 'proxy_read_timeout 2s']],
    haproxy: [['timeout tunnel 60s', 'timeout tunnel 2s']],
    'haproxy-tcp': [['timeout client 60s', 'timeout client 2s'], ['timeout server 60s', 'timeout server 2s']],
  };

  for (const [kind, changes] of Object.entries(idle)) {
    test(`the edge's pings keep a session open that is silent for longer than ${kind} allows`, async (t) => {
      const flags = kind === 'haproxy-tcp' ? [...TCP, ...certificate()] : TRUST;
      const [, proxy] = await edgeAndProxy(t, kind, [...flags, '--presence-heartbeat', '1s'], changes);
      const [, late] = await edgeAndProxy(t, kind, [...flags, '--presence-heartbeat', '25s'], changes);
      const alice = await welcomed(await proxy.open('alice'), 'alice');
      const bob = await welcomed(await late.open('bob'), 'bob');
      await sleep(5000);
      assert.equal(alice.closed, null);
      await works(alice);
      // Without them the time-out is real.
      assert.equal((await bob.end()).code, 1006);
    });
  }

  test('a health check in the form that HAProxy has by itself finds the edge alive', async (t) => {
    const plain = [['option httpchk GET /readyz', 'option httpchk'], ['check inter 1s', 'check inter 200ms']];
    const [, proxy] = await edgeAndProxy(t, 'haproxy', [...TRUST, '--server-max-per-address', '1'], plain);
    await welcomed(await proxy.open('alice', { from: '127.0.0.2' }), 'alice');
    // Longer than it takes to be found dead.
    await sleep(1000);
    await welcomed(await proxy.open('bob', { from: '127.0.0.3' }), 'bob');
    assert.doesNotMatch(proxy.said, /DOWN/);
  });

  for (const version of ['v1', 'v2']) {
    test(`a header of the PROXY protocol ${version} says who connects, and then there is TLS`, async (t) => {
      const other = version === 'v1' ? [['send-proxy-v2', 'send-proxy']] : [];
      const flags = [...TCP, ...certificate(), '--server-max-per-address', '1'];
      const [, proxy] = await edgeAndProxy(t, 'haproxy-tcp', flags, other);
      const alice = await welcomed(await proxy.open('alice', { from: '127.0.0.2' }), 'alice');
      const bob = await welcomed(await proxy.open('bob', { from: '127.0.0.3' }), 'bob');
      const spoofed = { 'x-forwarded-for': '192.0.2.9' };
      assert.equal(await proxy.open('late', { from: '127.0.0.2', headers: spoofed }), 429);
      const route = await proxy.get('/route?userId=a', { from: '127.0.0.4', headers: { 'x-forwarded-proto': 'http' } });
      assert.equal(JSON.parse(route.body).address, `wss://localhost:${proxy.port}/socket`);
      // The checks, which come with a header too, go on.
      await sleep(1500);
      assert.doesNotMatch(proxy.said, /DOWN/);
      await Promise.all([works(alice), works(bob)]);
    });
  }

  test('a header of the PROXY protocol says that the proxy ended TLS', async (t) => {
    const ends = [['bind :443', `bind :443 ssl crt ${folder.file('both.pem')} alpn http/1.1`],
      ['send-proxy-v2', 'send-proxy-v2-ssl'], [' check-ssl verify none', ''],
      ['tcp-request content accept if { req.ssl_hello_type 1 }', 'tcp-request content accept if HTTP']];
    const [, proxy] = await edgeAndProxy(t, 'haproxy-tcp', TCP, ends);
    // The second is a trusted proxy itself, and says nothing of it.
    for (const from of ['127.0.0.2', '127.0.0.1']) {
      const route = await proxy.get('/route?userId=a', { from });
      assert.equal(JSON.parse(route.body).address, `wss://localhost:${proxy.port}/socket`);
    }
    await works(await welcomed(await proxy.open('alice'), 'alice'));
  });

  test('a header of the PROXY protocol before plain HTTP, and health checks in their plain form', async (t) => {
    const http = [[' check-ssl verify none', ''], ['option httpchk GET /readyz', 'option httpchk'],
      ['tcp-request content accept if { req.ssl_hello_type 1 }', 'tcp-request content accept if HTTP']];
    const [edge, proxy] = await edgeAndProxy(t, 'haproxy-tcp', TCP, http);
    await sleep(1500);
    const answer = await fetch(`http://127.0.0.1:${proxy.port}/readyz`);
    assert.equal(answer.status, 200);
    assert.doesNotMatch(proxy.said, /DOWN/);
    // Past the proxy, from the proxy's address, nobody gets in without a header.
    assert.equal((await fetch(`http://127.0.0.1:${edge.port}/readyz`)).status, 400);
  });

  for (const kind of ['nginx', 'haproxy', 'caddy', 'haproxy-tcp']) {
    test(`${kind} leads to each edge by its name`, async (t) => {
      const flags = kind === 'haproxy-tcp' ? [...TCP, ...certificate()] : TRUST;
      const edges = [];
      for (const n of [1, 2]) edges.push(await started(t, Edge.start(...flags, '--node-id', `edge-${n}`)));
      const proxy = await started(t, Proxy.start(kind, folder, edges));
      for (const n of [1, 2, 1, 2]) {
        const route = JSON.parse((await proxy.get('/route?userId=a', { name: `edge-${n}.chat.example` })).body);
        assert.equal(route.node, `edge-${n}`);
        assert.equal(route.address, `wss://edge-${n}.chat.example:${proxy.port}/socket`);
      }
    });
  }

  // What two of them say once a check has failed: until then a client may get 503, and comes again. The
  // others ask the next edge themselves.
  const looked = { caddy: /status code out of tolerances/, 'haproxy-tcp': /edges\/edge-1 is DOWN/ };

  for (const kind of ['nginx', 'haproxy', 'caddy', 'haproxy-tcp']) {
    test(`${kind} sends nobody new to an edge that shuts down, and its sessions are told`, async (t) => {
      // It closes ten sessions a second, and so is there for some seconds.
      const slowly = ['--server-drain-rate', '1', '--server-drain-timeout', '60s'];
      const flags = kind === 'haproxy-tcp' ? [...TCP, ...certificate()] : TRUST;
      const leaving = await started(t, Edge.start(...slowly, ...flags));
      const staying = await started(t, Edge.start(...flags));
      const proxy = await started(t, Proxy.start(kind, folder, [leaving, staying]));
      const sockets = [];
      for (let n = 0; n < 120; n += 1) sockets.push(await welcomed(await proxy.open(`user-${n}`), `user-${n}`));
      await until('both have some', async () => {
        const shares = [await leaving.metric('sessions'), await staying.metric('sessions')];
        return shares[0] + shares[1] === 120 && Math.min(...shares) > 40;
      });
      leaving.child.kill('SIGTERM');
      await until('it says that it goes', async () => (await leaving.ask('/readyz')).status === 503);
      if (looked[kind]) await until(`${kind} has looked`, () => looked[kind].test(proxy.said));
      const there = await staying.metric('connects_total');
      for (let n = 0; n < 12; n += 1) await welcomed(await proxy.open(`new-${n}`), `new-${n}`);
      await until('all came to the other', async () => await staying.metric('connects_total') === there + 12);
      // Nobody came to the other because this one was gone.
      assert.ok(await leaving.metric('sessions') > 0);
      assert.equal((await Promise.race(sockets.map((socket) => socket.end()))).code, 1001);
    });
  }
});
