// The live page of a standalone edge, in a real browser: two tabs see each other.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';

const BINARY = process.env.EDGE_BIN ?? new URL('../../target/release/online-status-edge', import.meta.url).pathname;
let edge, browser, url;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

before(async () => {
  const [port, admin] = [await freePort(), await freePort()];
  url = `http://127.0.0.1:${port}/`;
  edge = spawn(BINARY, ['standalone', '--listen', `127.0.0.1:${port}`, '--server-admin-listen', `127.0.0.1:${admin}`,
    '--presence-grace', '1s'], { stdio: ['ignore', 'ignore', 'inherit'] });
  for (;;) {
    const ready = await fetch(url + 'readyz').then((answer) => answer.ok, () => false);
    if (ready) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  edge?.kill('SIGKILL');
});

test('two tabs see each other come, change and go', async () => {
  const errors = [];
  const open = async (query) => {
    const context = await browser.newContext();
    const page = await context.newPage();
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    await page.goto(url + query);
    return page;
  };
  const alice = await open('?user=alice&watch=bob');
  await alice.getByText('connected as alice').waitFor();
  const card = alice.getByTestId('card-bob').locator('[data-part=status]');
  const shows = (status) => alice.waitForFunction(
    (status) => document.querySelector('[data-testid=card-bob] [data-part=status]')?.textContent === status, status);
  await shows('offline');

  let bob = await open('?user=bob&watch=alice');
  await shows('online');
  await bob.waitForFunction(() => document.querySelector('[data-testid=card-alice]')?.className === 'online');
  await bob.getByTestId('away').click();
  await shows('away');
  await bob.getByTestId('text').fill('at lunch');
  await bob.getByTestId('set-text').click();
  await alice.getByText('“at lunch”').waitFor();
  await bob.getByTestId('busy').click();
  await shows('busy');
  await bob.getByTestId('invisible').click();
  await shows('offline');
  await bob.getByTestId('online').click();
  await shows('online');

  await bob.getByTestId('bye').click();
  await shows('offline');
  await bob.getByTestId('connect').click();
  await shows('online');
  // A tab that vanishes is offline after the grace period.
  await bob.context().close();
  await shows('offline');
  assert.equal(await card.textContent(), 'offline');

  const wire = await alice.getByTestId('wire').textContent();
  assert.match(wire, /→ \{"type":"watch"/);
  assert.match(wire, /← \{"type":"presence"/);
  assert.doesNotMatch(wire, /eyJ/);
  assert.deepEqual(errors, []);
});
