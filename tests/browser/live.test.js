// The live page of a standalone edge, in a real browser.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';

const BINARY = process.env.EDGE_BIN ?? new URL('../../target/release/online-status-edge', import.meta.url).pathname;
let edge, browser, url, start;

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
  start = async () => {
    edge = spawn(BINARY, ['standalone', '--listen', `127.0.0.1:${port}`, '--server-admin-listen', `127.0.0.1:${admin}`,
      '--presence-grace', '1s'], { stdio: ['ignore', 'ignore', 'inherit'] });
    for (;;) {
      const ready = await fetch(url + 'readyz').then((answer) => answer.ok, () => false);
      if (ready) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  await start();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  edge?.kill('SIGKILL');
});

async function open(query, errors) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('dialog', (dialog) => { errors.push(dialog.message()); dialog.dismiss(); });
  await page.goto(url + query);
  return page;
}

test('two tabs see each other come, change and go', async () => {
  const errors = [];
  const alice = await open('?user=alice&watch=bob', errors);
  await alice.getByText('connected as alice').waitFor();
  const card = alice.getByTestId('card-bob').locator('[data-part=status]');
  const shows = (status) => alice.waitForFunction(
    (status) => document.querySelector('[data-testid=card-bob] [data-part=status]')?.textContent === status, status);
  await shows('offline');

  const bob = await open('?user=bob&watch=alice', errors);
  await shows('online');
  await bob.waitForFunction(() => document.querySelector('[data-testid=card-alice]')?.className === 'online');
  await bob.getByTestId('away').click();
  await shows('away');
  await bob.getByTestId('text').fill('at lunch');
  await bob.getByTestId('set-text').click();
  await alice.getByText('“at lunch”').waitFor();
  await bob.getByTestId('mode').selectOption('busy');
  await shows('busy');
  // What a device reports ends nothing that was chosen, and another device shows it.
  await bob.getByTestId('online').click();
  const tablet = await open('?user=bob', errors);
  await tablet.getByText('connected as bob').waitFor();
  assert.equal(await tablet.getByTestId('mode').inputValue(), 'busy');
  assert.equal(await tablet.getByTestId('text').inputValue(), 'at lunch');
  assert.equal(await card.textContent(), 'busy');
  await tablet.getByTestId('mode').selectOption('invisible');
  await shows('offline');
  await bob.waitForFunction(() => document.querySelector('[data-testid=mode]').value === 'invisible');
  await tablet.getByTestId('bye').click();
  await bob.getByTestId('mode').selectOption('auto');
  await shows('online');
  await tablet.context().close();

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

test('names and texts are never markup', async () => {
  const errors = [];
  const names = ['<img src=x onerror=alert(1)>', '"><script>alert(2)</script>', "'+alert(3)+'", '\u202ename'];
  const watcher = await open('?user=watcher&watch=' + encodeURIComponent(names.join(',')), errors);
  for (const name of names) {
    const page = await open('?user=' + encodeURIComponent(name), errors);
    await page.getByText('connected as').waitFor();
    await page.getByTestId('text').fill(name + '!');
    await page.getByTestId('set-text').click();
    await watcher.getByText('“' + name + '!”').waitFor();
  }
  assert.deepEqual(await watcher.locator('#cards bdi').allTextContents(), names);
  assert.equal(await watcher.locator('#cards img, #cards script, #wire *:not(div)').count(), 0);
  assert.doesNotMatch(await watcher.getByTestId('wire').textContent(), /\u202e/);
  assert.deepEqual(errors, []);
});

test('the longest names fit a phone', async () => {
  const errors = [];
  const user = 'u'.repeat(256);
  const page = await open(`?user=${user}&watch=${'w'.repeat(256)}`, errors);
  await page.setViewportSize({ width: 390, height: 844 });
  await page.getByText(`connected as ${user}`).waitFor();
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 390, `${wide} px are wider than a phone`);
  assert.deepEqual(errors, []);
});

test('a page comes back when its edge does', async () => {
  const page = await open('?user=carol&watch=dave', []);
  await page.getByText('connected as carol').waitFor();
  edge.kill('SIGKILL');
  await page.getByText('reconnecting').waitFor();
  // By now it has asked for a token in vain.
  await page.waitForTimeout(1500);
  await start();
  await page.getByText('connected as carol').waitFor();
  await open('?user=dave', []);
  await page.waitForFunction(() => document.querySelector('[data-testid=card-dave]')?.className === 'online');
});

test('a page that is put off asks where its user is now', async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  const asked = [];
  page.on('request', (request) => request.url().includes('/route') && asked.push(new URL(request.url()).search));
  let put = 0;
  await page.routeWebSocket(/socket$/, (socket) => {
    put += 1;
    if (put === 1) return socket.close({ code: 1013, reason: 'no node owns the user at the moment' });
    return socket.connectToServer();
  });
  await page.goto(url + '?user=erin');
  await page.getByText('connected as erin').waitFor();
  assert.equal(put, 2);
  assert.deepEqual(asked, ['?userId=erin', '?userId=erin']);
  await context.close();
});
