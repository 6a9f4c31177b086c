// The dashboard and the rules of ops/ against what the binaries export, and against the page that
// explains the alerts.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Cluster, freeBase, root } from '../dev-cluster/cluster.mjs';

const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const rules = read('ops/rules.yml');
const dashboard = JSON.parse(read('ops/grafana/dashboards/online-status.json'));

// Of an edge and a coordinator.
let exported;

before(async () => {
  const cluster = new Cluster(await freeBase());
  after(() => cluster.remove());
  cluster.good('up', '--no-build', '--edges', '1', '--coordinators', '1', '--port-base', String(cluster.base));
  const { EDGE_1_ADMIN, COORDINATOR_URL } = cluster.env();
  const pages = await Promise.all([EDGE_1_ADMIN, COORDINATOR_URL].map((url) => fetch(`${url}/metrics`).then((page) => page.text())));
  exported = new Set(pages.flatMap(names));
});

// The names that a page declares; a metric without a value yet counts too.
function names(page) {
  const found = [];
  for (const [, name, kind] of page.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    const parts = kind === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
    found.push(...parts.map((part) => name + part));
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
