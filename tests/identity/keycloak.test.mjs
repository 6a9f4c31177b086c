// A real Keycloak makes the tokens and the keys; a real edge lets its users in.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freeBase, root } from '../dev-cluster/cluster.mjs';
import { Socket } from '../dev-cluster/socket.mjs';
import { Keycloak } from './keycloak.mjs';

let keycloak;
let edge;

// An edge for the realm's tokens; what it says is kept.
async function startEdge(port) {
  const flags = {
    listen: `127.0.0.1:${port}`, 'server-admin-listen': `127.0.0.1:${port + 1}`,
    'auth-algorithms': 'RS256,PS256,ES256,EdDSA', 'auth-jwks-url': keycloak.jwks, 'auth-issuer': keycloak.issuer,
    'auth-audience': 'web,mobile', 'auth-audience-claims': 'azp', 'auth-user-claim': 'preferred_username',
  };
  const words = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const child = spawn(path.join(root, 'target/release/online-status-edge'), ['standalone', ...words]);
  const started = { child, said: '', socket: `ws://127.0.0.1:${port}/socket`, admin: `http://127.0.0.1:${port + 1}` };
  for (const output of [child.stdout, child.stderr]) output.on('data', (text) => { started.said += text; });
  for (let tries = 0; (await fetch(`${started.admin}/readyz`).catch(() => null))?.status !== 200; tries += 1) {
    assert.ok(tries < 300, `the edge does not get ready:\n${started.said}`);
    await sleep(100);
  }
  return started;
}

before(async () => {
  const port = await freeBase();
  keycloak = await Keycloak.start(port);
  await keycloak.addKey('rsa-generated', { algorithm: 'PS256', priority: 100, keySize: 2048 });
  await keycloak.addKey('ecdsa-generated', { ecdsaEllipticCurveKey: 'P-256', priority: 100 });
  await keycloak.addKey('eddsa-generated', { eddsaEllipticCurveKey: 'Ed25519', priority: 100 });
  await keycloak.addKey('eddsa-generated', { eddsaEllipticCurveKey: 'Ed448', priority: 50 });
  edge = await startEdge(port + 10);
});

after(() => {
  edge?.child.kill('SIGKILL');
  keycloak?.stop();
});

const part = (token, n) => JSON.parse(Buffer.from(token.split('.')[n], 'base64url'));

// The user whom the edge takes the token's bearer for.
async function userOf(token) {
  const socket = await Socket.open(edge.socket, token);
  const welcome = await socket.message('welcome', (message) => message.type === 'welcome');
  socket.destroy();
  return welcome.user;
}

test('its users come in with keys of each kind', async () => {
  for (const algorithm of ['RS256', 'PS256', 'ES256', 'EdDSA']) {
    await keycloak.signWith(algorithm);
    const token = await keycloak.token();
    assert.equal(part(token, 0).alg, algorithm);
    assert.equal(await userOf(token), 'alice', algorithm);
  }
});

test('keys that are not used are named, each once', async () => {
  const { keys } = await (await fetch(keycloak.jwks)).json();
  const unused = keys.filter((key) => key.use === 'enc' || key.crv === 'Ed448');
  assert.deepEqual(unused.map((key) => key.alg).sort(), ['EdDSA', 'RSA-OAEP']);
  for (const { kid } of unused) {
    assert.equal(edge.said.split(`its key \\"${kid}\\" is not used`).length, 2, edge.said);
  }
});

test('the first token of a new key is let in, and those of the old one are not any more', async () => {
  await keycloak.signWith('RS256');
  const old = await keycloak.token();
  // Again and again, and no client has to try twice.
  for (const priority of [200, 300, 400]) {
    const key = await keycloak.addKey('rsa-generated', { algorithm: 'RS256', priority, keySize: 2048 });
    await keycloak.disableOthers('RS256', key);
    const token = await keycloak.token();
    assert.notEqual(part(token, 0).kid, part(old, 0).kid);
    assert.equal(await userOf(token), 'alice');
    await assert.rejects(userOf(old), /answers 401/);
  }
  const metrics = await (await fetch(`${edge.admin}/metrics`)).text();
  assert.match(metrics, /^online_status_jwks_waits_total\{result="let_in"\} 3$/m);
});

test('a key of a curve that is not supported lets nobody in, and keeps nobody out', async () => {
  await keycloak.addKey('eddsa-generated', { eddsaEllipticCurveKey: 'Ed448', priority: 500 });
  await keycloak.signWith('EdDSA');
  await assert.rejects(userOf(await keycloak.token()), /answers 401/);
  await keycloak.signWith('ES256');
  assert.equal(await userOf(await keycloak.token()), 'alice');
});
