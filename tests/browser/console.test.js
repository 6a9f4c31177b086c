// The console of a coordinator, in a real browser: it takes a token, shows the fleet, its vnodes as they
// move and the last hour, and drains a node. With ONLINE_STATUS_SCREENSHOTS=FOLDER it leaves pictures there.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const BINARY = process.env.COORDINATOR_BIN ?? new URL('../../target/release/online-status-coordinator', import.meta.url).pathname;
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SECRET = 'a secret of the tests, long enough for HS256';
const FOLDER = process.env.ONLINE_STATUS_SCREENSHOTS;
let redis, redisPort, coordinator, browser, url;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const cli = (...words) => execFileSync('redis-cli', ['-p', String(redisPort), ...words], { encoding: 'utf8' });

async function until(what, ask) {
  for (const deadline = Date.now() + 40000; ; ) {
    const found = await ask();
    if (found) return found;
    assert.ok(Date.now() < deadline, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// A node whose lease lasts for the whole test, or until it is written again.
function lease(node, load) {
  const core = (part) => ({ sessions: Math.round(load.sessions * part), changes: 20, deliveries: 300,
    queued: 2, slow: part > 0.5 ? load.slow ?? 0 : 0, outbox_bytes: 4096, cpu: 300 });
  const all = { connections: load.sessions, events_per_second: 42.5, deliveries_per_second: 612, delivery_p50_us: 640, delivery_p99_us: 2350,
    lag_records: 3, store_writes_per_second: 40, store_queue: 1, bus_queue: 2, memory: 412 * 2 ** 20, memory_limit: 4 * 2 ** 30, cpu: 0.25,
    per_core: [core(0.6), core(0.4)], ...load };
  const content = { node, boot: 1, address: `ws://${node}.example/socket`, cores: 2, weight: 100, pins: load.pins ?? '', load: all };
  cli('sadd', 'os:nodes', node);
  cli('set', `os:node:${node}`, JSON.stringify(content));
}

// Answers, as edges do, what is asked of them.
function answerAll(about, answers) {
  return until(`a question about ${about}`, () => {
    const asked = cli('hkeys', 'os:{policy}:entries').split('\n').filter((name) => name.startsWith('survey:') && name.includes(`:${about}`));
    const found = Object.entries(answers).flatMap(([node, found]) => [node, JSON.stringify(found)]);
    for (const field of asked) cli('hset', `os:survey:${field.split(':')[1]}`, ...found);
    return asked.length > 0;
  });
}

function token(scope) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'ops', exp: Math.floor(Date.now() / 1000) + 600, scope })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

before(async () => {
  redisPort = await freePort();
  redis = spawn(process.env.ONLINE_STATUS_DEV_REDIS_SERVER ?? 'redis-server', ['--port', String(redisPort), '--bind', '127.0.0.1', '--save', ''], { stdio: 'ignore', cwd: '/tmp' });
  await until('redis answers', () => {
    try { return cli('ping').includes('PONG'); } catch { return false; }
  });
  const port = await freePort();
  url = `http://127.0.0.1:${port}/`;
  const { JWT_SECRET, REDIS_URL, ...environment } = process.env;
  coordinator = spawn(BINARY, ['run', '--listen', `127.0.0.1:${port}`, '--coordinator-id', 'c1', '--auth-secret', SECRET,
    '--redis-url', `redis://127.0.0.1:${redisPort}`, '--cluster-vnodes', '256', '--cluster-lease-ttl', '1s',
    '--coordinator-poll', '100ms', '--coordinator-request-timeout', '4s', '--rebalance-formation', '400ms', '--rebalance-step-timeout', '3s'],
  { stdio: ['ignore', 'ignore', 'inherit'], env: environment });
  lease('edge-1', { sessions: 1200, pins: '999' });
  lease('edge-2', { sessions: 1100, slow: 3, outbox_bytes: 70000, slow_closed: 7 });
  await until('the coordinator is ready', () => fetch(url + 'readyz').then((answer) => answer.ok, () => false));
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  coordinator?.kill('SIGKILL');
  redis?.kill('SIGKILL');
});

async function accessible(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`), []);
}

async function picture(page, name, fullPage = false) {
  if (FOLDER) await page.screenshot({ path: join(FOLDER, `console-${name}.png`), fullPage });
}

test('the console takes a token, shows the fleet and its moves, drains a node and says when the store is away', async () => {
  const errors = [];
  const foreign = [];
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 }, colorScheme: 'light' });
  page.on('pageerror', (error) => errors.push(String(error)));
  // What the page's policy forbids is said on its console.
  page.on('console', (message) => { if (message.text().includes('Content Security Policy')) errors.push(message.text()); });
  page.on('request', (request) => { if (!request.url().startsWith(url) && !request.url().startsWith('data:')) foreign.push(request.url()); });
  const answer = await page.goto(url);
  assert.match(answer.headers()['content-security-policy'], /default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'/);

  // Without a token nothing is shown; with one that may not, either.
  await page.getByTestId('token').waitFor();
  assert.equal(await page.getByTestId('nodes').isVisible(), false);
  await accessible(page);
  await page.keyboard.type(token('other'));
  await page.keyboard.press('Enter');
  await page.getByTestId('refused').getByText('needs the scope presence:admin').waitFor();
  // What can be no token is said here, as what a page or a mail made of one.
  for (const wrong of ['„geheim“', 'ключ', 'two words', '   ']) {
    await page.getByTestId('token').fill(wrong);
    await page.keyboard.press('Enter');
    await page.getByTestId('refused').getByText('This is no token').waitFor();
    await page.getByTestId('token').fill(token('other'));
    await page.keyboard.press('Enter');
    await page.getByTestId('refused').getByText('needs the scope presence:admin').waitFor();
  }
  await page.getByTestId('token').fill(`Bearer ${token('other')}`);
  await page.keyboard.press('Enter');
  await page.getByTestId('refused').getByText('needs the scope presence:admin').waitFor();
  await page.getByTestId('token').fill(token('presence:admin'));
  await page.keyboard.press('Enter');

  const cells = (node) => page.locator(`tr[data-node="${node}"]`);
  await cells('edge-1').getByText('active').waitFor();
  assert.equal(await page.getByTestId('coordinator').textContent(), 'c1');
  assert.equal(await page.getByTestId('leader').textContent(), 'this one');
  assert.match(await cells('edge-1').textContent(), /128.*50\.0 %.*1,200.*43.*612.*2\.35 ms.*25\.0 %.*412 MiB.*ws:\/\/edge-1\.example/);
  await page.getByTestId('problems').getByText('vnode 999 does not exist').waitFor();
  assert.match(await page.getByTestId('slow').textContent(), /edge-2all370,0007/);
  await page.getByTestId('cores').check();
  await page.getByText('core 1').first().waitFor();
  await page.getByTestId('plots').getByText('Sessions: sessions 2,300 (most 2,300)').waitFor();
  assert.equal(await page.getByTestId('plots').locator('canvas').count(), 6);
  await page.getByTestId('legend').getByText('edge-1 128').waitFor();
  await page.getByTestId('vnode').fill('255');
  assert.match(await page.getByTestId('owner').textContent(), /^edge-[12], epoch \d+$/);

  // A third node comes, and its vnodes are seen to move.
  lease('edge-3', { sessions: 0 });
  await page.getByTestId('heat-text').getByText(/moved .*edge-[12] → edge-3/).waitFor();
  await page.getByTestId('legend').getByText('edge-3 85').waitFor();
  await page.getByTestId('events').getByText('node edge-3 is here').waitFor();
  await accessible(page);

  // A user, from the map and the store.
  await page.getByTestId('looked').fill('alice');
  await page.keyboard.press('Enter');
  await page.getByTestId('user').getByText('offline').waitFor();
  assert.match(await page.getByTestId('user').textContent(), /nodeedge-[123]epoch/);
  // What nodes answer in time is said; on a busy machine it may be the second time.
  const said = (name, begin) => until(`an answer about ${name}`, async () => {
    await begin();
    await until('the end of it', async () => !(await page.getByTestId(`${name}-said`).textContent()).startsWith('All nodes'));
    const text = await page.getByTestId(`${name}-said`).textContent();
    return !text.includes('edge-1') && text;
  });
  assert.equal(await said('watchers', async () => {
    await page.getByTestId('look').click();
    await answerAll('watchers:alice', { 'edge-1': { total: 0, sessions: [] },
      'edge-2': { total: 60, sessions: [{ user: 'bob', session: 'edge-2-0-00001' }] } });
  }), '60 sessions watch alice; 59 of them are not named here; not counted, since they did not answer: edge-3.');
  assert.equal(await page.getByTestId('watchers').textContent(), 'edge-2bobedge-2-0-00001');

  // Who is slow, by name.
  const quiet = { total: 0, sessions: [] };
  assert.equal(await said('slow-sessions', async () => {
    await page.getByTestId('who-slow').click();
    await answerAll('slow', { 'edge-1': quiet, 'edge-3': quiet,
      'edge-2': { total: 1, sessions: [{ user: 'carol', session: 'edge-2-1-00007', bytes: 70000, changes: 12, blockedMs: 2500 }] } });
  }), '1 session has bytes waiting.');
  assert.equal(await page.getByTestId('slow-sessions').textContent(), 'edge-2caroledge-2-1-0000770,000122.5 s');
  await accessible(page);

  // A pin that is mended is no problem any more.
  lease('edge-1', { sessions: 1240 });
  await page.getByTestId('problems').getByText('vnode 999 does not exist').waitFor({ state: 'detached' });

  // Draining is confirmed, and can be called off; all of it by the keyboard.
  const drain = cells('edge-2').getByRole('button', { name: 'drain edge-2', exact: true });
  await drain.focus();
  await page.keyboard.press('Enter');
  await page.getByTestId('sure').getByText('Drain edge-2?').waitFor();
  await accessible(page);
  await page.keyboard.press('Escape');
  assert.equal(cli('smembers', 'os:drained').trim(), '');
  await drain.focus();
  await page.keyboard.press('Enter');
  await page.getByTestId('yes').focus();
  await page.keyboard.press('Enter');
  await cells('edge-2').getByText(/^(draining|drained)/).waitFor();
  assert.equal(cli('smembers', 'os:drained').trim(), 'edge-2');

  // While it is relieved of its vnodes.
  await page.getByTestId('heat-text').getByText(/moved .*edge-2 → edge-/).waitFor();
  await picture(page, 'light', true);
  await page.emulateMedia({ colorScheme: 'dark' });
  await picture(page, 'dark');
  await page.setViewportSize({ width: 390, height: 844 });
  const narrow = async (what) => {
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 390, `${what}: ${wide} px are wider than a phone`);
  };
  await narrow('the fleet');
  await picture(page, 'phone');
  await accessible(page);

  await cells('edge-2').getByRole('button', { name: 'undrain edge-2' }).click();
  await page.getByTestId('yes').click();
  await until('it is no more drained', () => cli('smembers', 'os:drained').trim() === '');
  await page.getByTestId('events').getByText('node edge-2 is drained, as "ops" asked').waitFor();
  await page.getByTestId('events').getByText('node edge-2 is drained no more, as "ops" asked').waitFor();

  // Names are as long as they may be, wherever they stand.
  const [long, user] = ['n'.repeat(64), 'u'.repeat(256)];
  lease(long, { sessions: 3, slow: 1, pins: '999' });
  await page.getByTestId('legend').getByText(long).waitFor();
  await page.getByTestId('events').getByText(`node ${long} is here`).waitFor();
  await narrow('a node');
  await page.getByTestId('looked').fill(user);
  await said('watchers', async () => {
    await page.getByTestId('look').click();
    await answerAll(`watchers:${user}`, { 'edge-1': quiet, 'edge-2': { total: 1, sessions: [{ user, session: `${long}-0-00001` }] } });
  });
  await narrow('a user');
  await cells(long).getByRole('button', { name: `drain ${long}`, exact: true }).click();
  await page.getByTestId('sure').getByText(`Drain ${long}?`).waitFor();
  await narrow('a question');
  const sure = await page.getByTestId('sure').boundingBox();
  assert.ok(sure.x >= 0 && sure.x + sure.width <= 390, `the question is from ${sure.x}, ${sure.width} px wide`);
  await page.getByTestId('yes').click();
  await page.getByTestId('result').getByText('drain was accepted').waitFor();
  await narrow('an answer');

  // The token is in this tab alone; forgotten, nothing is left.
  assert.equal(await page.evaluate(() => Object.keys(localStorage).length + document.cookie.length), 0);
  redis.kill('SIGKILL');
  await page.getByTestId('banner').getByText('The store does not answer').waitFor();
  await page.getByTestId('leave').click();
  await page.getByTestId('token').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.getByTestId('token').fill(token('presence:admin'));
  await page.keyboard.press('Enter');
  await cells('edge-1').waitFor();
  coordinator.kill('SIGKILL');
  await page.getByTestId('banner').getByText('The server does not answer').waitFor();
  assert.deepEqual(errors, []);
  assert.deepEqual(foreign, []);
});
