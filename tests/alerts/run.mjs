// The alerts of ops/rules.yml as a Prometheus raises them that scrapes a development cluster under load: none while all
// is well, those of a fault while it lasts, and none again some time after it. tests/operations/alerts.test.mjs has
// every alert by made-up figures; this has what real processes show. By hand, a quarter of an hour:
//   node tests/alerts/run.mjs [FAULT…]
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Cluster, now, root, sleep } from '../faults/cluster.mjs';

const PORTS = Number(process.env.ONLINE_STATUS_TEST_PORTS ?? 25000);
const NAMES = ['edge-1', 'edge-2', 'edge-3', 'coordinator-1', 'coordinator-2'];
/** How long an alert may take, seconds: its `for`, a rate over a minute, scrapes, a busy machine. */
const PATIENCE = 150;
/** Seconds without a fault. */
const QUIET = 60;
/** They look back five minutes, and so outlast what raised them. */
const LINGER = ['OnlineStatusFenced', 'OnlineStatusStalls', 'OnlineStatusLivingEdgeReplaced', 'OnlineStatusForeignData'];

// By fault: what it does, the alerts that have to come, and others that may, as the moment of the fault decides.
const faults = {
  'kill-edge': {
    happens: (cluster) => cluster.run('kill', 'edge-3'),
    ends: (cluster) => cluster.run('start', 'edge-3'),
    fires: ['OnlineStatusEdgeDown'],
    may: ['OnlineStatusSessionsLost'],
  },
  'stop-coordinators': {
    happens: async (cluster) => {
      await cluster.run('stop', 'coordinator-1');
      await cluster.run('stop', 'coordinator-2');
    },
    ends: async (cluster) => {
      await cluster.run('start', 'coordinator-1');
      await cluster.run('start', 'coordinator-2');
    },
    fires: ['OnlineStatusCoordinatorDown', 'OnlineStatusNoCoordinator'],
    may: [],
  },
  'stop-redis': {
    happens: (cluster) => cluster.run('stop', 'redis'),
    ends: (cluster) => cluster.run('start', 'redis'),
    fires: ['OnlineStatusStoreFails', 'OnlineStatusLeaseLost', 'OnlineStatusCoordinatorBlind'],
    may: ['OnlineStatusNoLeader', 'OnlineStatusVnodesNotLoaded'],
  },
  'stop-kafka': {
    happens: (cluster) => cluster.run('stop', 'kafka'),
    ends: (cluster) => cluster.run('start', 'kafka'),
    fires: ['OnlineStatusKafkaAway', 'OnlineStatusNotPublishing', 'OnlineStatusFleetProblem'],
    may: ['OnlineStatusBusFails', 'OnlineStatusBusBehind', 'OnlineStatusKafkaUnreachable'],
  },
  'stop-kafka-without-links': {
    before: (cluster) => cluster.relink(''),
    happens: (cluster) => cluster.run('stop', 'kafka'),
    ends: (cluster) => cluster.run('start', 'kafka'),
    fires: ['OnlineStatusKafkaAway', 'OnlineStatusNotPublishing', 'OnlineStatusFleetProblem'],
    may: ['OnlineStatusBusFails', 'OnlineStatusBusBehind', 'OnlineStatusKafkaUnreachable', 'OnlineStatusDeliverySlow', 'OnlineStatusKafkaBehind'],
  },
};

function prometheus(cluster) {
  const program = [path.join(root, 'target/promtool/usr/bin/prometheus'), '/usr/bin/prometheus'].find((file) => existsSync(file));
  if (!program) throw new Error('there is no Prometheus: scripts/test brings it, as does the package prometheus');
  const folder = path.join(cluster.folder, 'prometheus');
  mkdirSync(folder);
  const key = (name) => name.toUpperCase().replace('-', '_');
  const address = (name) => new URL(cluster.env[`${key(name)}_ADMIN`] ?? cluster.env[`${key(name)}_URL`]).host;
  // As shipped, but for the targets and where the rules are.
  const shipped = readFileSync(path.join(root, 'ops/prometheus.yml'), 'utf8');
  const config = shipped.replace('[rules.yml]', `[${path.join(root, 'ops/rules.yml')}]`)
    .replaceAll(/(?:edge|coordinator)-\d:\d+/g, (target) => address(target.split(':')[0]));
  if (NAMES.some((name) => config.includes(`${name}:`))) throw new Error(`targets of ops/prometheus.yml are left:\n${config}`);
  writeFileSync(path.join(folder, 'prometheus.yml'), config);
  const url = `http://127.0.0.1:${PORTS + 90}`;
  const child = spawn(program, [`--config.file=${folder}/prometheus.yml`, `--storage.tsdb.path=${folder}/data`,
    `--web.listen-address=${new URL(url).host}`, '--log.level=error'], { stdio: ['ignore', 'inherit', 'inherit'] });
  return {
    /** The names of the alerts that fire now. */
    async firing() {
      const { data } = await (await fetch(`${url}/api/v1/alerts`)).json();
      return new Set(data.alerts.filter(({ state }) => state === 'firing').map(({ labels }) => labels.alertname));
    },
    /** How many targets it has scraped without an error. */
    async up() {
      const { data } = await (await fetch(`${url}/api/v1/targets`)).json();
      return data.activeTargets.filter(({ health }) => health === 'up').length;
    },
    stop: () => child.kill(),
  };
}

const names = process.argv.slice(2).length > 0 ? process.argv.slice(2) : Object.keys(faults);
const unknown = names.filter((name) => !(name in faults));
if (unknown.length > 0) throw new Error(`there is no fault ${unknown}; there are ${Object.keys(faults)}`);
const cluster = await Cluster.up(PORTS);
const failures = [];
let server;
try {
  await cluster.settled();
  server = prometheus(cluster);
  await cluster.until('Prometheus scrapes all', async () => await server.up() === NAMES.length);
  const outlasts = new Set(LINGER);
  // The load outlasts whatever happens, and is ended with it.
  const loaded = async (work) => {
    let done = false;
    while (!done) {
      await cluster.load({ seconds: 20, tolerance: 60 }, async () => { done ||= await work(); });
    }
  };

  const quiet = now() + QUIET;
  const seen = new Set();
  await loaded(async () => {
    for (; now() < quiet; await sleep(2)) for (const alert of await server.firing()) seen.add(alert);
    return true;
  });
  if (seen.size > 0) failures.push(`without a fault: ${[...seen]}`);
  console.log(`without a fault, ${QUIET} s: ${[...seen].join(', ') || 'none'}`);

  for (const name of names) {
    const { before, happens, ends, fires, may } = faults[name];
    await before?.(cluster);
    await cluster.settled();
    const came = new Map();
    const look = async (since) => {
      for (const alert of await server.firing()) if (!came.has(alert)) came.set(alert, now() - since);
    };
    await loaded(async () => {
      const since = now();
      await happens(cluster);
      while (now() < since + PATIENCE && !fires.every((alert) => came.has(alert))) {
        await look(since);
        await sleep(1);
      }
      await look(since);
      await ends(cluster);
      return true;
    });
    const told = [...came].map(([alert, after]) => `${alert} after ${after.toFixed(0)} s`);
    for (const alert of fires) if (!came.has(alert)) failures.push(`${name}: ${alert} does not fire`);
    for (const alert of came.keys()) {
      if (![...fires, ...may, ...outlasts].includes(alert)) failures.push(`${name}: ${alert} fires`);
    }
    await cluster.settled();
    const since = now();
    let left = new Set();
    do {
      await sleep(1);
      left = await server.firing();
      for (const alert of outlasts) left.delete(alert);
    } while (left.size > 0 && now() < since + PATIENCE);
    if (left.size > 0) failures.push(`${name}: ${[...left]} still fire ${PATIENCE} s after it`);
    console.log(`${name}: ${told.join(', ')}; none ${(now() - since).toFixed(0)} s after it`);
  }
} finally {
  server?.stop();
  await cluster.down();
}
for (const failure of failures) console.error(failure);
process.exitCode = failures.length > 0 ? 1 : 0;
