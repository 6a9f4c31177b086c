// The rules of ops/ as Prometheus understands them: each alert fires with its words on what it is for, and
// not on what is well; the queries of the dashboard are right. Needs promtool in the path.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { root } from '../dev-cluster/cluster.mjs';
import { promtool } from './promtool.mjs';

const ops = path.join(root, 'ops');
const rules = fs.readFileSync(path.join(ops, 'rules.yml'), 'utf8');

function withFile(name, text, use) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-alerts-'));
  try {
    const file = path.join(folder, name);
    fs.writeFileSync(file, text);
    use(file);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

const edge = { instance: 'edge-1:8081', job: 'online-status-edge' };
const other = { instance: 'edge-2:8081', job: 'online-status-edge' };
const coordinator = { instance: 'coordinator-1:8090', job: 'online-status-coordinator' };
const { instance } = edge;

// A metric of a target with more labels, and its values every 30 s for ten minutes: when all is well, and when
// not. `a+bxn` begins with a, and n times is b more.
const of = (target, metric, well, ill, labels = {}) => ({ target, metric, labels, well, ill });
const still = (value) => `${value}+0x20`;
const rising = (by) => `0+${by}x20`;

// By alert: the metrics, the labels of what fires after ten minutes besides its severity, and its words.
const cases = {
  OnlineStatusEdgeDown: [[of(edge, 'up', still(1), still(0))], edge, 'The edge edge-1:8081 does not answer.'],
  OnlineStatusDeliverySlow: [
    [
      of(edge, 'online_status_delivery_seconds_bucket', rising(100), rising(10), { le: '0.1' }),
      of(edge, 'online_status_delivery_seconds_bucket', rising(100), rising(100), { le: '1' }),
      of(edge, 'online_status_delivery_seconds_bucket', rising(100), rising(100), { le: '+Inf' }),
    ],
    { instance },
    '1 % of the deliveries of edge-1:8081 take longer than 990ms.',
  ],
  OnlineStatusStoreFails: [
    [of(edge, 'online_status_store_failures_total', still(7), rising(3), { core: '0' })],
    { instance },
    'The store fails requests of edge-1:8081.',
  ],
  OnlineStatusRedisFull: [
    [of(edge, 'online_status_redis_full', still(0), still(1))],
    edge,
    'The memory of Redis is full (OOM): edge-1:8081 cannot write records.',
  ],
  OnlineStatusRedisNearlyFull: [
    [
      of(coordinator, 'online_status_coordinator_store_memory_bytes', still(70), still(90), { server: 'r' }),
      of(coordinator, 'online_status_coordinator_store_memory_limit_bytes', still(100), still(100), { server: 'r' }),
    ],
    { ...coordinator, server: 'r' },
    'Redis uses 90% of its maxmemory.',
  ],
  OnlineStatusRedisEvicts: [
    [of(edge, 'online_status_redis_evicting_servers', still(0), still(2))],
    edge,
    '2 servers of Redis take keys away when their memory is full: maxmemory-policy is not noeviction.',
  ],
  OnlineStatusRedisUnusable: [
    [of(edge, 'online_status_redis_unusable', still(0), still(1))],
    edge,
    'edge-1:8081 is led to a Redis that it cannot use: older than 7.0, a replica, or one that does not end to load.',
  ],
  OnlineStatusRedisMasterDown: [
    [of(edge, 'online_status_redis_masters_down', still(0), still(1))],
    edge,
    '1 masters of the Redis Cluster do not answer edge-1:8081, whose log names them.',
  ],
  OnlineStatusStoreBehind: [
    [
      of(edge, 'online_status_store_queue', still(10), still(8000), { core: '0' }),
      of(edge, 'online_status_store_queue', still(10), still(4000), { core: '1' }),
    ],
    { instance },
    '12000 users of edge-1:8081 wait to be written to the store.',
  ],
  OnlineStatusBusFails: [
    [of(edge, 'online_status_bus_failures_total', still(7), rising(3), { core: '0' })],
    { instance },
    'The bus does not take events of edge-1:8081.',
  ],
  OnlineStatusBusBehind: [
    [of(edge, 'online_status_bus_queue', still(10), still(20000), { core: '0' })],
    { instance },
    'Changes of 20000 users of edge-1:8081 wait for the bus.',
  ],
  OnlineStatusVnodesNotLoaded: [
    [of(edge, 'online_status_vnodes_loading', still(0), still(3), { core: '0' })],
    { instance },
    'edge-1:8081 cannot load 3 vnodes that it owns.',
  ],
  OnlineStatusAcceptFails: [
    [of(edge, 'online_status_accept_errors_total', still(4), rising(1), { core: '0' })],
    { instance },
    'edge-1:8081 cannot accept connections.',
  ],
  OnlineStatusTokensRefused: [
    [
      of(edge, 'online_status_bad_tokens_total', rising(1), rising(60), { reason: 'expired' }),
      of(edge, 'online_status_connects_total', rising(60), rising(10), { core: '0' }),
    ],
    {},
    'More tokens are refused than accepted.',
  ],
  OnlineStatusKeysNotFetched: [
    [
      of(edge, 'online_status_jwks_fetches_total', rising(1), rising(1), { result: 'failed' }),
      of(edge, 'online_status_jwks_fetches_total', rising(1), still(5), { result: 'ok' }),
    ],
    { ...edge, result: 'failed' },
    'edge-1:8081 cannot fetch the keys of tokens.',
  ],
  OnlineStatusClientsTooSlow: [
    [of(edge, 'online_status_closes_total', rising(1), rising(60), { code: '1013' })],
    { instance },
    'edge-1:8081 closes sessions because they do not read what they asked for.',
  ],
  OnlineStatusSessionsLost: [
    [of(edge, 'online_status_sessions', still(1000), '1000+0x15 600+0x5', { core: '0' })],
    {},
    'More than 30 % of the sessions of 5 minutes ago are gone.',
  ],
  OnlineStatusLeaseLost: [
    [of(edge, 'online_status_lease_held', still(1), still(0))],
    edge,
    'edge-1:8081 has no lease.',
  ],
  OnlineStatusMapBehind: [
    [
      of(edge, 'online_status_map_followed', still(8), still(7)),
      of(other, 'online_status_map_followed', still(8), still(8)),
      of(edge, 'online_status_map_version', still(8), still(7)),
      of(other, 'online_status_map_version', still(8), still(8)),
    ],
    edge,
    'edge-1:8081 follows map 7, and others a newer one.',
  ],
  OnlineStatusFenced: [
    [of(edge, 'online_status_fenced_total', still(3), '0+0x17 4+0x3', { core: '0' })],
    { instance },
    'edge-1:8081 lost 4 vnodes to a higher epoch.',
  ],
  OnlineStatusStalls: [
    [of(edge, 'online_status_stalls_total', still(1), '1+0x17 2+0x3')],
    edge,
    'edge-1:8081 stood still for a second or more.',
  ],
  OnlineStatusKafkaAway: [
    [
      of(edge, 'online_status_kafka_producer_connected', still(1), still(0)),
      // With links nobody reads the topic, and a fleet that is well has no consumer.
      of(edge, 'online_status_kafka_consumer_connected', still(0), still(0)),
      of(edge, 'online_status_link_missing', still(0), still(0)),
      of(edge, 'online_status_kafka_unreachable', still(0), still(0)),
    ],
    edge,
    'edge-1:8081 has no connection to Kafka.',
  ],
  OnlineStatusKafkaUnreachable: [
    [of(edge, 'online_status_kafka_unreachable', still(0), still(1))],
    edge,
    'A broker answers edge-1:8081, and one that leads partitions cannot be reached.',
  ],
  OnlineStatusNotPublishing: [
    [of(edge, 'online_status_kafka_oldest_unreported_seconds', still(0.1), still(20))],
    edge,
    'edge-1:8081 is not publishing: readers of the topic, and watchers on edges without links, do not see its users change.',
  ],
  OnlineStatusLinkMissing: [
    [of(edge, 'online_status_link_missing', still(0), still(2))],
    edge,
    'edge-1:8081 does not hear 2 edges over links: its watchers see their users change up to 2 s late.',
  ],
  OnlineStatusKafkaBehind: [
    [of(edge, 'online_status_kafka_lag_records', still(10), still(20000))],
    edge,
    'edge-1:8081 has 20000 events of other edges still to read.',
  ],
  OnlineStatusForeignData: [
    [of(edge, 'online_status_kafka_bad_messages_total', still(3), '3+0x17 4+0x3')],
    edge,
    'edge-1:8081 finds in Redis or on the topic what does not belong there.',
  ],
  OnlineStatusVnodesUnowned: [
    [of(coordinator, 'online_status_coordinator_vnodes_unowned', still(0), still(64))],
    {},
    'No edge owns 64 vnodes: their users cannot connect.',
  ],
  OnlineStatusNodeReturnsOften: [
    [of(coordinator, 'online_status_coordinator_nodes', still(0), still(1), { state: 'penalised' })],
    {},
    '1 edges came back so often that they get no vnodes for a while.',
  ],
  OnlineStatusFleetProblem: [
    [of(coordinator, 'online_status_coordinator_problems', still(0), still(1), { kind: 'vnode_count' })],
    { kind: 'vnode_count' },
    'The coordinators report a problem: vnode_count.',
  ],
  OnlineStatusCoordinatorDown: [
    [of(coordinator, 'up', still(1), still(0))],
    coordinator,
    'The coordinator coordinator-1:8090 does not answer.',
  ],
  OnlineStatusNoCoordinator: [
    [of(coordinator, 'up', still(1), still(0))],
    {},
    'No coordinator answers: clients find no edge, and dead nodes are not replaced.',
  ],
  OnlineStatusNoLeader: [
    [of(coordinator, 'online_status_coordinator_leader', still(1), still(0))],
    {},
    'No coordinator leads: nothing replaces a dead edge.',
  ],
  OnlineStatusCoordinatorBlind: [
    [of(coordinator, 'online_status_coordinator_last_look_seconds', still(0.5), still(20))],
    coordinator,
    'coordinator-1:8090 has not read the store for 20s.',
  ],
  OnlineStatusLivingEdgeReplaced: [
    [of(coordinator, 'online_status_coordinator_closed_connections_total', still(1), '1+0x17 2+0x3', { result: 'lived' })],
    {},
    'An edge that lives was taken for dead: its connection to Redis was closed.',
  ],
  OnlineStatusMapNotWritten: [
    [
      of(coordinator, 'online_status_coordinator_map_writes_total', rising(1), rising(1), { result: 'written' }),
      of(coordinator, 'online_status_coordinator_map_writes_total', still(2), rising(1), { result: 'failed' }),
    ],
    {},
    'Maps cannot be written: vnodes of a dead edge stay with it.',
  ],
  OnlineStatusDrainStuck: [
    [
      of(coordinator, 'online_status_coordinator_nodes', still(1), still(1), { state: 'draining' }),
      of(coordinator, 'online_status_coordinator_vnodes_moved_total', rising(5), still(9)),
    ],
    {},
    '1 edges are to be relieved of their vnodes, and nothing moves.',
  ],
};

const severities = Object.fromEntries(
  [...rules.matchAll(/alert: (\S+)[^]*?severity: (\w+)/g)].map(([, alert, severity]) => [alert, severity]),
);

test('every alert has a case here', () => {
  assert.deepEqual(Object.keys(cases).sort(), Object.keys(severities).sort());
});

test('every alert fires with its words when it should, and else not', () => {
  const series = ({ target, metric, labels }) => {
    const all = Object.entries({ ...target, ...labels }).map(([name, value]) => `${name}="${value}"`);
    return `${metric}{${all.join(',')}}`;
  };
  const run = (name, values, alerts) => ({
    name,
    interval: '30s',
    input_series: [...values].map(([series, values]) => ({ series, values })),
    alert_rule_test: alerts.map(([alertname, exp_alerts]) => ({ eval_time: '10m', alertname, exp_alerts })),
  });
  const tests = Object.entries(cases).map(([alertname, [metrics, labels, summary]]) => {
    const fires = { exp_labels: { ...labels, severity: severities[alertname] }, exp_annotations: { summary } };
    return run(alertname, metrics.map((metric) => [series(metric), metric.ill]), [[alertname, [fires]]]);
  });
  const allWell = new Map(Object.values(cases).flatMap(([metrics]) => metrics.map((metric) => [series(metric), metric.well])));
  tests.push(run('all is well', allWell, Object.keys(cases).map((alertname) => [alertname, []])));
  const file = { rule_files: [path.join(ops, 'rules.yml')], evaluation_interval: '30s', tests };
  withFile('alerts.json', JSON.stringify(file), (name) => promtool(['test', 'rules', name]));
});

test('the configuration for the containers is right', () => promtool(['check', 'config', path.join(ops, 'prometheus.yml')]));

test('every query of the dashboard is right', () => {
  const dashboard = JSON.parse(fs.readFileSync(path.join(ops, 'grafana/dashboards/online-status.json'), 'utf8'));
  const targets = dashboard.panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]).flatMap((panel) => panel.targets ?? []);
  const queries = [...new Set(targets.map((target) => target.expr))];
  assert.ok(queries.length > 10, `${queries.length} queries`);
  const recorded = queries.map((query, n) => ({
    record: `dashboard:query:${n}`,
    // What Grafana puts in.
    expr: query.replaceAll(/\$__\w+/g, '1m').replaceAll(/\$\{?\w+\}?/g, '.*'),
  }));
  const text = JSON.stringify({ groups: [{ name: 'dashboard', rules: recorded }] });
  withFile('dashboard.json', text, (name) => promtool(['check', 'rules', '--lint-fatal', name]));
});
