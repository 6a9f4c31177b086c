// The client in a real page: the back-forward cache, React components, sizes of what is sent.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { connect } from '@online-status/client';
import { WebSocket } from 'ws';
import { startChromium, startPlainChromium } from './browsers.mjs';
import { token } from './cluster/fleet.mjs';
import { bundle, Site, until } from './site.mjs';

const EDGE = new URL('../../../target/release/online-status-edge', import.meta.url).pathname;

let browser;
before(async () => { browser = await startChromium(); });
after(() => browser?.close());

const page = (script) => `<!doctype html><title>t</title><div id="root"></div><script type="module">${script}</script>`;
const CONNECT = `
  import { connect } from './client.js';
  window.presence = connect({ route: location.origin, token: async () => (await fetch('/token')).text() });
  window.seen = [];
  presence.watch(['bob'], (users) => seen.push(users.map(({ status }) => status).join()));`;

async function opened(t, pages) {
  const site = await Site.open(pages);
  const context = await browser.newContext();
  const tab = await context.newPage();
  tab.errors = [];
  tab.on('pageerror', (error) => tab.errors.push(String(error)));
  tab.on('console', (message) => message.type() === 'error' && !/favicon/.test(message.location().url) && tab.errors.push(message.text()));
  t.after(async () => {
    await context.close();
    site.close();
  });
  return { site, tab };
}

test('a page in the back-forward cache has no connection, and has one again when the user comes back', async (t) => {
  const { site, tab } = await opened(t, { '/': page(CONNECT), '/next': page('') });
  await tab.goto(site.url);
  await tab.waitForFunction(() => window.seen?.length === 1);
  // By hand: a document that is loaded again would be another one.
  await tab.evaluate(() => { window.same = true; });
  await tab.goto(`${site.url}/next`);
  await until('the connection is closed', () => site.connections[0].code);
  assert.equal(site.connections[0].code, 4000);
  // Without waiting for a load, which does not come.
  await tab.evaluate(() => history.back());
  await until('another connection', () => site.open.length === 1);
  assert.equal(await tab.evaluate(() => window.same), true, 'Chromium did not keep the page in its cache');
  await tab.evaluate(() => window.presence.ready());
  await until('the watch', () => site.open[0].of('watch').length === 1);
  assert.deepEqual(site.open[0].of('watch')[0].known, { bob: 7 });
  assert.equal(site.connections.length, 2);
  assert.deepEqual(tab.errors, []);
});

test('a page that is frozen has no connection, and has one again when it is thawed', async (t) => {
  const site = await Site.open({ '/': page(CONNECT) });
  const plain = await startPlainChromium();
  t.after(async () => {
    await plain.close();
    site.close();
  });
  const tab = await plain.newPage();
  await tab.goto(site.url);
  await tab.waitForFunction(() => window.seen?.length === 1);
  await (await plain.newPage()).bringToFront();
  await tab.waitForFunction(() => document.hidden, { polling: 100 });
  const devtools = await tab.createCDPSession();
  await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
  await until('the connection is closed', () => site.connections[0].code);
  assert.equal(site.connections[0].code, 4000);
  await devtools.send('Page.setWebLifecycleState', { state: 'active' });
  await until('the watch', () => site.open[0]?.of('watch').length === 1);
  assert.deepEqual(site.open[0].of('watch')[0].known, { bob: 7 });
  assert.equal(site.connections.length, 2);
});

test('a user whose page went away for good is offline after the grace period, though the browser keeps the page', async (t) => {
  const secret = 'a secret of the tests, long enough for HS256';
  const edge = spawn(EDGE, ['standalone', '--listen', '127.0.0.1:0', '--server-admin-listen', '127.0.0.1:0', '--server-cores', '1', '--presence-grace', '2s'], {
    env: { ...process.env, JWT_SECRET: secret },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => edge.kill());
  const [, host] = /clients +ws:\/\/(\S+)\/socket/.exec(await new Promise((resolve) => {
    let said = '';
    edge.stdout.on('data', (data) => /admin/.test((said += data)) && resolve(said));
  }));
  const route = `http://${host}`;
  const { site, tab } = await opened(t, { '/': page(CONNECT.replace('location.origin', JSON.stringify(route))), '/next': page('') });
  site.token = () => token(secret, 'alice');
  const bob = connect({ route, token: () => token(secret, 'bob'), WebSocket });
  t.after(() => bob.disconnect());
  const seen = [];
  bob.watch(['alice'], ([{ status }]) => seen.push([status, Date.now()]));
  const shows = (status) => until(`alice is ${status}`, () => seen.at(-1)?.[0] === status);
  await tab.goto(site.url);
  await shows('online');
  const left = Date.now();
  await tab.goto(`${site.url}/next`);
  await shows('offline');
  assert.ok(seen.at(-1)[1] - left >= 2_000, 'that was no goodbye');
});

test('logout says goodbye, and nothing of the user is left for the next', async (t) => {
  const { site, tab } = await opened(t, { '/': page(CONNECT) });
  await tab.goto(site.url);
  await until('a connection', () => site.open[0]?.of('watch').length);
  await tab.evaluate(() => window.presence.disconnect());
  await until('it is closed', () => site.connections[0].code);
  assert.equal(site.connections[0].code, 1000);
  assert.equal(site.connections[0].heard.at(-1).type, 'bye');
  assert.equal(await tab.evaluate(() => window.presence.get('bob')), undefined);
});

const APP = `
  import { StrictMode, useState } from 'react';
  import { createRoot } from 'react-dom/client';
  import { PresenceProvider, useConnectionState, usePresence, usePresenceClient } from '@online-status/react';
  const options = { route: location.origin, token: async () => (await fetch('/token')).text() };
  function Dot({ user }) { return <i id={user}>{usePresence([user]).get(user)?.status ?? '…'}</i>; }
  function State() { const client = usePresenceClient(); window.presence = client; return <b id="state">{useConnectionState().state}</b>; }
  function App() {
    const [shown, show] = useState(true);
    window.show = show;
    return <StrictMode>{shown && <PresenceProvider options={options}><State />{Array.from({ length: 300 }, (_, n) => <Dot key={n} user={'u' + n} />)}</PresenceProvider>}</StrictMode>;
  }
  createRoot(document.getElementById('root')).render(<App />);`;

test('300 components in strict mode make one connection and one message, and leave none behind', async (t) => {
  const { site, tab } = await opened(t, { '/app.js': await bundle(APP), '/': '<!doctype html><div id="root"></div><script type="module" src="app.js"></script>' });
  await tab.goto(site.url);
  await tab.waitForFunction(() => document.getElementById('u299')?.textContent === 'online');
  assert.equal(await tab.textContent('#state'), 'connected');
  assert.equal(site.connections.length, 1);
  assert.deepEqual(site.open[0].heard.map(({ type }) => type), ['auth', 'watch']);
  assert.equal(site.open[0].of('watch')[0].users.length, 300);
  await tab.evaluate(() => window.show(false));
  await until('it is closed', () => site.connections[0].code);
  assert.equal(site.connections[0].code, 1000);
  // Gone before its token is there.
  await tab.evaluate(() => { window.show(true); setTimeout(() => window.show(false), 0); });
  await tab.waitForTimeout(300);
  assert.equal(site.open.length, 0);
  assert.deepEqual(tab.errors, []);
});

test('a change draws the components of that user, and no others', async (t) => {
  const script = `
    import { createRoot } from 'react-dom/client';
    import { PresenceProvider, usePresence } from '@online-status/react';
    window.drawn = {};
    function Dot({ user }) { drawn[user] = (drawn[user] ?? 0) + 1; return <i id={user}>{usePresence([user]).get(user)?.status ?? '…'}</i>; }
    createRoot(document.getElementById('root')).render(
      <PresenceProvider options={{ route: location.origin, token: async () => (await fetch('/token')).text() }}><Dot user="a" /><Dot user="b" /><Dot user={'bad\\u0007'} /></PresenceProvider>);`;
  const { site, tab } = await opened(t, { '/app.js': await bundle(script), '/': '<!doctype html><div id="root"></div><script type="module" src="app.js"></script>' });
  await tab.goto(site.url);
  await tab.waitForFunction(() => document.getElementById('b')?.textContent === 'online');
  const before = await tab.evaluate(() => ({ ...window.drawn }));
  site.open[0].socket.send(JSON.stringify({ type: 'presence', users: [{ user: 'a', status: 'busy', since: 2, devices: 1, version: 8 }] }));
  await tab.waitForFunction(() => document.getElementById('a').textContent === 'busy');
  const after = await tab.evaluate(() => window.drawn);
  assert.equal(after.a, before.a + 1);
  assert.equal(after.b, before.b);
  assert.match(tab.errors.join(), /is no user/);
});
