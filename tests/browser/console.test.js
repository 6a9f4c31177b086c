// The console of a coordinator, in a real browser: it shows the fleet and drains a node.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';

const BINARY = process.env.COORDINATOR_BIN ?? new URL('../../target/release/online-status-coordinator', import.meta.url).pathname;
const SECRET = 'a secret of the tests, long enough for HS256';
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
  for (const deadline = Date.now() + 20000; ; ) {
    if (await ask()) return;
    assert.ok(Date.now() < deadline, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// A node whose lease lasts for the whole test.
function lease(node, more) {
  const content = { node, boot: 1, address: `ws://${node}.example/socket`, cores: 1, weight: 100, ...more };
  cli('sadd', 'os:nodes', node);
  cli('set', `os:node:${node}`, JSON.stringify(content));
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
    '--redis-url', `redis://127.0.0.1:${redisPort}`, '--cluster-vnodes', '64', '--cluster-lease-ttl', '1s',
    '--coordinator-poll', '100ms', '--rebalance-formation', '400ms', '--rebalance-step-timeout', '1s'],
  { stdio: ['ignore', 'ignore', 'inherit'], env: environment });
  lease('edge-1', { load: { sessions: 1200, cpu: 0.25 }, pins: '99' });
  lease('edge-2', { load: { sessions: 1100 } });
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

test('the console shows the fleet, drains a node with a token, and says when the store is away', async () => {
  const errors = [];
  const page = await browser.newPage();
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('dialog', (dialog) => dialog.accept());
  await page.goto(url);
  const cells = (node) => page.locator(`tr[data-node="${node}"]`);
  await cells('edge-1').getByText('active').waitFor();
  assert.equal(await page.getByTestId('coordinator').textContent(), 'c1');
  assert.equal(await page.getByTestId('leader').textContent(), 'this one');
  assert.match(await cells('edge-1').textContent(), /32.*50\.0 %.*1,200.*25\.0 %.*ws:\/\/edge-1\.example/);
  assert.equal(await page.getByTestId('bar').locator('span').count(), 2);
  await page.getByTestId('problems').getByText('vnode 99 does not exist').waitFor();

  // Without a token, and with one that may not.
  await cells('edge-2').getByRole('button').click();
  await page.getByTestId('result').getByText('a bearer token is needed').waitFor();
  await page.getByTestId('token').fill(token('other'));
  await cells('edge-2').getByRole('button').click();
  await page.getByTestId('result').getByText('needs the scope presence:admin').waitFor();
  await page.getByTestId('token').fill(token('presence:admin'));
  await cells('edge-2').getByRole('button').click();
  await cells('edge-2').getByText('drained', { exact: true }).waitFor();
  assert.equal(cli('smembers', 'os:drained').trim(), 'edge-2');
  assert.equal(await page.getByTestId('bar').locator('span').count(), 1);
  await cells('edge-2').getByRole('button', { name: 'undrain' }).click();
  await cells('edge-2').getByText('active').waitFor();
  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true });

  redis.kill('SIGKILL');
  await page.getByTestId('banner').getByText('The store does not answer').waitFor();
  coordinator.kill('SIGKILL');
  await page.getByTestId('banner').getByText('The coordinator does not answer').waitFor();
  assert.deepEqual(errors, []);
});
