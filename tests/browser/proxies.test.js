// The live page of an edge behind HAProxy, which ends TLS and speaks HTTP/2, in a real browser.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { Edge, Folder, Proxy, token, until } from '../proxies/around.mjs';

let folder, edge, proxy, browser;

before(async () => {
  folder = new Folder();
  edge = await Edge.start('--server-trusted-proxies', '127.0.0.1', '--server-max-per-address', '4');
  // A line for each request, with the version of HTTP that it came by.
  const logged = [['option forwardfor', 'option forwardfor\n    option logasap\n    log stdout format raw daemon\n'
    + '    log-format "%HM %HPO %HV %ST"']];
  proxy = await Proxy.start('haproxy', folder, [edge], logged);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-sync', '--ignore-certificate-errors', '--host-resolver-rules=MAP *.chat.example 127.0.0.1'],
  });
});

after(async () => {
  await browser?.close();
  await proxy?.stop();
  await edge?.stop();
  folder.remove();
});

test('two pages see each other through HTTPS and HTTP/2', async () => {
  const errors = [];
  const open = async (user, watch) => {
    const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    await page.goto(`https://edge-1.chat.example:${proxy.port}/?user=${user}&watch=${watch}#token=${token(user)}`);
    await page.getByText(`connected as ${user}`).waitFor();
    return page;
  };
  const alice = await open('alice', 'bob');
  const shows = (status) => alice.waitForFunction(
    (status) => document.querySelector('[data-testid=card-bob] [data-part=status]')?.textContent === status, status);
  await shows('offline');
  const bob = await open('bob', 'alice');
  await shows('online');
  await bob.getByTestId('away').click();
  await shows('away');
  await bob.getByTestId('bye').click();
  await shows('offline');
  const version = await alice.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol);
  assert.equal(version, 'h2');
  // The WebSockets too came by HTTP/2 (RFC 8441).
  await until('the proxy has logged them', () => proxy.said.match(/ \/socket /g)?.length === 2);
  assert.equal(proxy.said.match(/ \/socket HTTP\/2\.0 /g)?.length, 2, proxy.said);
  const route = await alice.evaluate(() => fetch('/route?userId=alice').then((answer) => answer.json()));
  assert.equal(route.address, `wss://edge-1.chat.example:${proxy.port}/socket`);
  assert.deepEqual(errors, []);
});
