// The client against a real cluster: the README's lines in an empty page, a rolling restart under a fleet of
// sessions, connections that a proxy cuts without a word, and the same in CBOR.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from '@online-status/client';
import { cbor } from '@online-status/client/cbor';
import { Cluster, freeBase } from '../../../tests/dev-cluster/cluster.mjs';
import { hasFirefox, startChromium, startFirefox } from './browsers.mjs';
import { faults, Proxies, restored } from './cluster/faults.mjs';
import { Fleet, Plain, token } from './cluster/fleet.mjs';
import { dist, until } from './site.mjs';

let cluster, environment;
before(async () => {
  cluster = new Cluster(await freeBase());
  cluster.good('up', '--no-build', '--port-base', String(cluster.base));
  environment = cluster.env();
});
after(() => cluster.remove());

const client = (user, more) => connect({ route: environment.COORDINATOR_URL, token: () => token(environment.JWT_SECRET, user), WebSocket: Plain, ...more });

test("the README's lines show who is online, in an empty page", async (t) => {
  const readme = readFileSync(new URL('../packages/client/README.md', import.meta.url), 'utf8');
  const top = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
  assert.ok(top.includes(readme.match(/```js\n[^]*?```/)[0]), 'the README at the top has other lines');
  const lines = readme.match(/```js\n([^]*?)```/)[1].replace('https://presence.example', environment.COORDINATOR_URL);
  const page = `<!doctype html><script type="importmap">{"imports":{"@online-status/client":"/client.js"}}</script>
    <p id="bob"></p><p id="carol"></p><script type="module">${lines}</script>`;
  const site = createServer(({ url }, response) => {
    if (url === '/token') return response.end(token(environment.JWT_SECRET, 'alice'));
    response.setHeader('content-type', url === '/client.js' ? 'text/javascript' : 'text/html');
    response.end(url === '/client.js' ? dist('index.js') : page);
  });
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  const browser = await startChromium();
  const bob = client('bob');
  t.after(async () => {
    bob.disconnect();
    await browser.close();
    site.close();
  });
  await bob.ready();
  const tab = await browser.newPage();
  await tab.goto(`http://127.0.0.1:${site.address().port}/`);
  const shows = (id, status) => tab.waitForFunction(([id, status]) => document.getElementById(id).className === status, [id, status]);
  await shows('bob', 'online');
  await shows('carol', 'offline');
  await bob.setMode('busy');
  await shows('bob', 'busy');
  // What a person chose outlives its connections.
  await bob.setMode('auto');
  bob.disconnect();
  await shows('bob', 'offline');
});

// By `evaluate` only, which both drivers have.
async function roster(t, start) {
  const site = spawn(process.execPath, [new URL('../../examples/chat-roster/serve.mjs', import.meta.url).pathname], {
    env: { ...process.env, COORDINATOR_URL: environment.COORDINATOR_URL, JWT_SECRET: environment.JWT_SECRET, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const address = await new Promise((resolve) => site.stdout.once('data', (data) => resolve(/http:\S+/.exec(data)[0])));
  const browser = await start();
  t.after(async () => {
    await browser.close();
    site.kill();
  });
  const tab = async (user) => {
    const page = await browser.newPage();
    await page.goto(address);
    await until(`${user} has the page`, () => page.evaluate(() => !!document.querySelector('#login button') && performance.getEntriesByName(location.origin + '/contacts').length > 0));
    const login = (name) => page.evaluate((name) => {
      document.getElementById('name').value = name;
      document.querySelector('#login button').click();
    }, name);
    const shows = (contact, status, words = '') => until(`${user} sees ${contact} ${status} ${words}`, () => page.evaluate(
      ([contact, status, words]) => {
        const line = document.querySelector(`li[data-user=${contact}]`);
        return line?.className === status && line.textContent.includes(words);
      }, [contact, status, words]));
    const choose = (mode) => page.evaluate((mode) => {
      const select = document.getElementById('mode');
      select.value = mode;
      select.dispatchEvent(new Event('change'));
    }, mode);
    const click = (id) => page.evaluate((id) => document.getElementById(id).click(), id);
    await until('the script runs', async () => {
      await login(user);
      return page.evaluate(() => !document.getElementById('main').hidden);
    });
    return { page, login, shows, choose, click };
  };
  const [alice, bob] = [await tab('alice'), await tab('bob')];
  await alice.shows('bob', 'online');
  await bob.shows('alice', 'online');
  await alice.shows('erin', 'offline', 'never seen');
  await bob.choose('busy');
  await alice.shows('bob', 'busy');
  await bob.choose('invisible');
  await alice.shows('bob', 'offline', 'last seen');
  await bob.shows('alice', 'online');
  await bob.choose('auto');
  await alice.shows('bob', 'online');
  // Another user in the same page, without loading it again.
  await bob.click('logout');
  await alice.shows('bob', 'offline', 'last seen');
  await bob.login('mallory');
  await until('the refusal', () => bob.page.evaluate(() => /nobody here is called mallory/.test(document.getElementById('problem').textContent)));
  await bob.click('logout');
  await bob.login('carol');
  await alice.shows('carol', 'online');
  await bob.shows('alice', 'online');
}

test('the roster shows contacts, busy, invisible and last seen, in Chromium', (t) => roster(t, startChromium));

test('and in Firefox', { skip: !hasFirefox && 'firefox-esr is not installed' }, (t) => roster(t, startFirefox));

test("a coordinator's console finds a user", async (t) => {
  const frank = client('frank');
  const browser = await startChromium();
  t.after(async () => {
    frank.disconnect();
    await browser.close();
  });
  await frank.ready();
  await frank.setMode('busy');
  const page = await browser.newPage();
  await page.goto(environment.COORDINATOR_URL);
  await page.getByTestId('token').fill(token(environment.JWT_SECRET, 'operator', 3600, { scope: 'presence:admin' }));
  await page.getByTestId('enter').click();
  await page.getByTestId('looked').fill('frank');
  await until('frank is busy there', async () => {
    await page.getByTestId('look').click();
    return (await page.getByTestId('user').textContent()).includes('busy');
  });
});

test('mode and text are told to others, and to the own sessions, in JSON and in CBOR', async (t) => {
  const [dave, other, eyes] = [client('dave', { codec: cbor }), client('dave'), client('eve', { codec: cbor })];
  t.after(() => [dave, other, eyes].forEach((one) => one.disconnect()));
  eyes.watch(['dave', 'nobody 🜨']);
  other.watch(['dave']);
  await Promise.all([dave.ready(), other.ready(), eyes.ready()]);
  await until('online', () => eyes.get('dave')?.status === 'online');
  assert.equal(eyes.get('nobody 🜨').version, 0);
  await dave.setText('à midi');
  await dave.setMode('invisible');
  await until('offline to others', () => eyes.get('dave').status === 'offline' && eyes.get('dave').text === 'à midi');
  await until('known to oneself', () => other.get('dave')?.mode === 'invisible');
  await dave.setMode('auto');
  dave.setActivity('away');
  other.setActivity('away');
  await until('away', () => eyes.get('dave').status === 'away');
  assert.equal((await eyes.query(['dave'])).find(({ user }) => user === 'dave').devices, 2);
  await assert.rejects(dave.setText('x'.repeat(129)), { code: 'text_too_long' });
});

test('a wrong token ends in words, after two tries', async () => {
  const wrong = connect({ route: environment.COORDINATOR_URL, token: () => token('another secret, which is long enough', 'mallory'), WebSocket: Plain });
  wrong.on('error', () => {});
  await assert.rejects(wrong.ready(), (error) => error.code === 4401 && /secret/.test(error.message));
  assert.equal(wrong.state.state, 'failed');
});

test('tokens of a few seconds are refreshed in band, and no connection is lost', async (t) => {
  const fleet = new Fleet(environment, 10, { prefix: 'short', ttl: 12 });
  t.after(() => fleet.end());
  await fleet.begin();
  await new Promise((resolve) => setTimeout(resolve, 15_000));
  await fleet.settled();
  assert.deepEqual(fleet.wrong, []);
  assert.deepEqual(fleet.gaps, []);
});

test('through a rolling restart of the edges nobody is seen offline and no last state is missed', async (t) => {
  const fleet = new Fleet(environment, 100, { prefix: 'roll' });
  t.after(() => fleet.end());
  await fleet.begin();
  const end = fleet.change(20);
  await faults['roll-edges'].inject(cluster);
  await end();
  await fleet.settled();
  t.diagnostic(JSON.stringify(fleet.report()));
  assert.deepEqual(fleet.wrong, []);
});

test('connections that a proxy cuts without a word are found and replaced', async (t) => {
  await restored(cluster);
  const proxies = new Proxies();
  const addresses = ['EDGE_1', 'EDGE_2', 'EDGE_3'].map((edge) => environment[`${edge}_ADDRESS`]);
  const fleet = new Fleet(environment, 20, { prefix: 'cut', client: { heartbeat: 5, ...(await proxies.client(addresses)) } });
  t.after(() => {
    fleet.end();
    proxies.close();
  });
  await fleet.begin();
  assert.ok(proxies.cut() >= 20);
  // Nobody hears of this by the connections that there were.
  const end = fleet.change(20);
  await until('all have other connections', () => fleet.gaps.length >= 20, 30_000);
  await end();
  await fleet.settled();
  t.diagnostic(JSON.stringify(fleet.report()));
  assert.deepEqual(fleet.wrong, []);
});
