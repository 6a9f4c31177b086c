// The dashboard and the rules of ops/ against what the binaries export, and against the page that
// explains the alerts.
import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Cluster, freeBase, root } from '../dev-cluster/cluster.mjs';
import { promtool } from './promtool.mjs';

const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const rules = read('ops/rules.yml');
const dashboard = JSON.parse(read('ops/grafana/dashboards/online-status.json'));

// A line a metric: name, type, labels. Dashboards and rules of others hang on them: a line goes only with
// a word in the CHANGELOG.
const promised = read('tests/operations/metrics.txt').trim().split('\n');

// The pages of an edge and a coordinator, as Prometheus' text and as OpenMetrics.
let plain, openmetrics;
let exported;

before(async () => {
  // With links, an edge exports all that it can.
  const cluster = new Cluster(await freeBase(), { ONLINE_STATUS_CLUSTER_LINK_KEY: 'k'.repeat(32) });
  after(() => cluster.remove());
  cluster.good('up', '--no-build', '--edges', '1', '--coordinators', '1', '--port-base', String(cluster.base));
  const { EDGE_1_ADMIN, COORDINATOR_URL } = cluster.env();
  const fetchPages = (accept) =>
    Promise.all(
      [EDGE_1_ADMIN, COORDINATOR_URL].map(async (url) => {
        const answer = await fetch(`${url}/metrics`, { headers: { accept } });
        return { type: answer.headers.get('content-type'), text: await answer.text() };
      }),
    );
  plain = await fetchPages('*/*');
  // What Prometheus 3 asks for.
  openmetrics = await fetchPages(
    'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1',
  );
  exported = new Set(plain.flatMap((page) => names(page.text)));
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

// The samples of a page: name, and names of labels.
function samples(page) {
  const lines = page.split('\n').filter((line) => line && !line.startsWith('#'));
  return lines.map((line) => {
    const [, name, labels = ''] = line.match(/^(\w+)(?:\{(.*)\})? \S+$/) ?? assert.fail(line);
    return [name, [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label).filter((label) => label !== 'le')];
  });
}

test('every metric that was promised is there, with its type and labels, and no other', () => {
  const found = plain.flatMap(({ text }) => [...text.matchAll(/^# TYPE (\S+ \S+)$/gm)].map(([, line]) => line));
  const [names, labels] = [new Set(), new Map()];
  for (const [name, type, ...rest] of promised.map((line) => line.split(' '))) {
    names.add(`${name} ${type}`);
    for (const part of type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']) labels.set(name + part, rest);
  }
  assert.deepEqual(found.sort(), [...names].sort());
  const all = [...plain, ...openmetrics].flatMap(({ text }) => samples(text));
  for (const [name, have] of all) assert.deepEqual(have, labels.get(name), name);
});

test('promtool finds nothing to say about the pages', () => {
  for (const { text } of plain) {
    assert.equal(promtool(['check', 'metrics'], text), '');
  }
});

test('who asks for OpenMetrics gets the same samples in it, and a family has one name', () => {
  for (const [at, { type, text }] of openmetrics.entries()) {
    assert.equal(plain[at].type, 'text/plain; version=0.0.4; charset=utf-8');
    assert.equal(type, 'application/openmetrics-text; version=1.0.0; charset=utf-8');
    assert.ok(text.endsWith('\n# EOF\n'));
    const families = [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name);
    assert.equal(new Set(families).size, families.length);
    const names = ({ text }) => new Set(samples(text).map(([name]) => name));
    assert.deepEqual([...names({ text })].sort(), [...names(plain[at])].sort());
  }
});

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
