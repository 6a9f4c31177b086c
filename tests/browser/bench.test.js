// The pages of the bench, in a real browser: of a run in which the server was killed, of one that was
// interrupted, and of the comparison of the two.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const binary = (name) => new URL(`../../target/release/${name}`, import.meta.url).pathname;
const EDGE = process.env.EDGE_BIN ?? binary('online-status-edge');
const BENCH = process.env.BENCH_BIN ?? binary('online-status-bench');
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'bench-pages-'));
let edge, start, url, browser;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Runs the bench, and `meanwhile` once its measured part has begun.
async function bench(words, meanwhile = async () => {}) {
  const child = spawn(BENCH, words, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, said, begun] = ['', '', undefined];
  child.stdout.on('data', (data) => { out += data; });
  child.stderr.on('data', (data) => {
    said += data;
    if (said.includes('the measured part begins')) begun ??= meanwhile(child);
  });
  const [code] = await once(child, 'close');
  await begun;
  return { code, out, said };
}

const run = (name, words, meanwhile) => bench(['presence', '--url', url, '--sessions', '150', '--watch', '10', '--rate', '100', '--grace', '2',
  '--label', name, '--report', join(folder, `${name}.html`), '--hgrm', join(folder, name), '--json', ...words], meanwhile);

before(async () => {
  const [port, admin] = [await freePort(), await freePort()];
  url = `ws://127.0.0.1:${port}/socket`;
  start = async () => {
    edge = spawn(EDGE, ['standalone', '--listen', `127.0.0.1:${port}`, '--server-admin-listen', `127.0.0.1:${admin}`,
      '--data', join(folder, 'data'), '--presence-grace', '2s'], { stdio: ['ignore', 'ignore', 'inherit'] });
    for (const deadline = Date.now() + 20000; ; await pause(50)) {
      if (await fetch(`http://127.0.0.1:${port}/readyz`).then((answer) => answer.ok, () => false)) return;
      assert.ok(Date.now() < deadline, 'the edge never was ready');
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
  rmSync(folder, { recursive: true, force: true });
});

// Opens a page of the folder, and looks at what every page has to be.
async function look(name, plots, colorScheme) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1100, height: 900 } });
  const page = await context.newPage();
  const [errors, requests] = [[], []];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && errors.push(message.text()));
  page.on('request', (request) => requests.push(request.url()));
  const address = pathToFileURL(join(folder, `${name}.html`)).href;
  await page.goto(address);
  await page.locator('.plot canvas').first().waitFor();
  if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}-${colorScheme}.png`), fullPage: true });
  // Only lines have colours: paper, text and grid are grey.
  const drawn = await page.locator('.plot canvas').evaluateAll((canvases) => canvases.map((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let coloured = 0;
    for (let at = 0; at < data.length; at += 4) {
      const [red, green, blue] = data.slice(at, at + 3);
      if (Math.max(red, green, blue) - Math.min(red, green, blue) > 60) coloured += 1;
    }
    return [canvas.getAttribute('aria-label'), coloured];
  }));
  assert.ok(drawn.length >= plots, `${name}: ${drawn.length} plots`);
  for (const [label, coloured] of drawn) assert.ok(coloured > 100, `${name}: ${label} has ${coloured} coloured pixels`);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), []);
  // On a telephone only tables and plots are wider than the screen, and these scroll by themselves.
  await page.setViewportSize({ width: 380, height: 800 });
  await pause(100);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 380, `${name} is too wide`);
  // On paper all is dark on white.
  await page.emulateMedia({ media: 'print', colorScheme });
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(255, 255, 255)');
  assert.deepEqual(requests.filter((request) => request !== address && !request.startsWith('data:')), []);
  assert.deepEqual(errors, []);
  const text = await page.locator('main').textContent();
  await context.close();
  return text;
}

test('pages of runs and of their comparison say what happened, with nothing from elsewhere', async () => {
  const killed = await run('killed', ['--duration', '5', '--outage-tolerance', '2', '--drain', '1'], async () => {
    await pause(1500);
    edge.kill('SIGKILL');
    await once(edge, 'exit');
    await pause(700);
    await start();
  });
  assert.ok([0, 1].includes(killed.code), killed.said);
  const report = JSON.parse(killed.out);
  const first = report.timeline.find((row) => row.cut > 0);
  assert.ok(first.second >= 1 && first.second <= 4 && first.cut >= 100, JSON.stringify(report.timeline));
  assert.ok(report.timeline.some((row) => row.sessions < 150) && report.timeline.at(-1).sessions === 150);
  assert.ok(report.generator.lateness.count > 300 && report.machine.kernel.startsWith('Linux'));
  for (const colorScheme of ['light', 'dark']) {
    const text = await look('killed', 6, colorScheme);
    for (const part of ['killed: presence, 150 sessions', 'coordinated omission', 'outage of a session', 'kernel', 'build ID', '--rate']) {
      assert.ok(text.includes(part), `without ${part}`);
    }
  }
  const hgrm = readFileSync(join(folder, 'killed', 'disturbed.hgrm'), 'utf8');
  assert.match(hgrm, /1\/\(1-Percentile\)[^]*1\.000000000000[^]*#\[Max/);

  // Ctrl-C: what was measured until then is judged and written.
  const began = Date.now();
  const interrupted = await run('interrupted', ['--duration', '600'], async (child) => {
    await pause(1800);
    child.kill('SIGINT');
  });
  assert.equal(interrupted.code, 1, interrupted.said);
  assert.ok(Date.now() - began < 60000);
  const short = JSON.parse(interrupted.out);
  assert.ok(short.interrupted > 1 && short.interrupted < 30, interrupted.out);
  assert.ok(short.failures[0].startsWith('INTERRUPTED'), interrupted.out);
  assert.equal(short.counts.missed, 0, interrupted.out);
  assert.ok(short.counts.changes > 100 && short.counts.changes < 10000);
  assert.equal(short.counts.delivered + short.counts.conflated, short.counts.expected);
  assert.match(await look('interrupted', 4, 'light'), /INTERRUPTED/);

  writeFileSync(join(folder, 'killed.json'), killed.out);
  writeFileSync(join(folder, 'interrupted.json'), interrupted.out);
  const diff = await bench(['diff', join(folder, 'killed.json'), join(folder, 'interrupted.json'), '--report', join(folder, 'diff.html')]);
  assert.equal(diff.code, 0, diff.said);
  assert.match(diff.out, /--duration +\[a\] 5\.0\n +\[b\] 600\.0/);
  assert.match(diff.out, /NOTE: interrupted failed: INTERRUPTED/);
  assert.match(await look('diff', 2, 'dark'), /Comparison: killed, interrupted/);
});
