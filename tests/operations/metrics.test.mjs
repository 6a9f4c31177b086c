// The dashboard and the rules of ops/ against what the binaries export, and against the page that
// explains the alerts.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const rules = read('ops/rules.yml');
const dashboard = JSON.parse(read('ops/grafana/dashboards/online-status.json'));

// By name: of a histogram its buckets, sum and count.
let exported;

before(async () => {
  const port = await new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
  const { JWT_SECRET, ...environment } = process.env;
  const binary = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release/online-status-edge');
  const words = ['standalone', '--listen', '127.0.0.1:0', '--server-admin-listen', `127.0.0.1:${port}`];
  const edge = spawn(binary, words, { stdio: ['ignore', 'ignore', 'inherit'], env: environment });
  after(() => edge.kill('SIGKILL'));
  for (const deadline = Date.now() + 20000; ; ) {
    const page = await fetch(`http://127.0.0.1:${port}/metrics`).then((answer) => answer.text(), () => null);
    if (page) {
      exported = names(page);
      return;
    }
    assert.ok(Date.now() < deadline, 'the edge does not answer');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

// The names that a page declares; a metric without a value yet counts too.
function names(page) {
  const found = new Set();
  for (const [, name, kind] of page.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    const parts = kind === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
    for (const part of parts) found.add(name + part);
  }
  return found;
}

const recorded = new Set([...rules.matchAll(/record: (\S+)/g)].map(([, name]) => name));

// The metrics of ours that a text names; recording rules have colons.
const used = (text) => new Set(text.match(/[a-z_:]*online_status_[a-z0-9_:]+/g));

function assertKnown(text, where) {
  const named = used(text);
  assert.ok(named.size > 5, `${where} names no metrics`);
  for (const name of named) assert.ok(exported.has(name) || recorded.has(name), `${where}: nothing exports ${name}`);
}

test('every metric of the rules is exported', () => {
  assertKnown(rules, 'ops/rules.yml');
});

test('every metric of the dashboard is exported or recorded', () => {
  const panels = dashboard.panels.filter((panel) => panel.type !== 'row');
  assert.ok(panels.length > 10);
  for (const panel of panels) assert.ok(panel.targets.length > 0 && panel.title && panel.description, panel.title);
  assertKnown(JSON.stringify(dashboard), 'the dashboard');
});

test('every recorded metric is used', () => {
  const text = rules.replaceAll(/record: \S+/g, '') + JSON.stringify(dashboard);
  for (const name of recorded) assert.ok(used(text).has(name), name);
});

test('every alert is explained', () => {
  const page = read('docs/operations.md');
  const alerts = [...rules.matchAll(/alert: (\S+)/g)].map(([, name]) => name);
  assert.ok(alerts.length > 5);
  for (const alert of alerts) assert.ok(page.includes(`\`${alert}\``), `docs/operations.md says nothing about ${alert}`);
});
