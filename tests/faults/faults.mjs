// Faults on the real processes of a development cluster, under a running load whose own counters
// decide: `node tests/faults/faults.mjs [NAME…]` prints one row a fault. It owns the faults; starting
// and stopping is `scripts/dev-cluster`, right and wrong is `online-status-bench`, and what its users
// cannot see is that of the other files here.
import { execFileSync, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { BEFORE, Cluster, Proxy, edgeProgram, now, resident, sleep } from './cluster.mjs';
import { Ghosts, bounds } from './ghosts.mjs';
import { Spoken } from './spoken.mjs';

const TOPIC = 'user_status_events';
const EDGES = ['edge-1', 'edge-2', 'edge-3'];
/** What an edge may grow by in 15 s without Redis, MiB: the allocator's and librdkafka's ups and downs. */
const GROWTH = 8;

/** How long after its return the store may differ from what users said, seconds. */
const EXACT = 2;

/** What an edge that was stopped counts of being too late: vnodes, records, sessions. */
const stale = (cluster) => Promise.all(['fenced_total', 'refused_writes_total', 'moved_total']
  .map((name) => cluster.metric(3, name)));

/** A master of Redis is killed, or its host gone, and comes back as a replica. */
async function loseMaster(lose, found) {
  const lost = now();
  const again = await lose();
  found.fact(`its replica took over after ${(now() - lost).toFixed(1)} s`);
  await sleep(5);
  await again();
}

/** A node came: it took a quarter of each other's vnodes, ± 1, and no other moved (invariant I7). */
export function quarter(before, after, found) {
  const moves = new Map();
  let between = 0;
  for (const [vnode, from] of before.entries()) {
    const share = moves.get(from) ?? { had: 0, lost: 0 };
    share.had += 1;
    if (after[vnode] !== from) share.lost += 1;
    if (after[vnode] !== from && before.includes(after[vnode])) between += 1;
    moves.set(from, share);
  }
  const gave = [...moves].sort().map(([node, { had, lost }]) => `${node} ${lost} of ${had}`);
  found.fact(`gave ${gave.join(', ')}; ${between} moved between them`);
  const uneven = [...moves.values()].some(({ had, lost }) => Math.abs(lost - had / 4) > 1);
  if (uneven) found.wrong('a node gave another share than a quarter');
  if (between > 0) found.wrong(`${between} vnodes moved between nodes that stay`);
}

/**
 * Each fault: what it does in a load of so many seconds, and what else must be true, which it tells
 * `found`. `prepare` is before the load and `after` after it; `seconds` include the time before the
 * fault. `outage`: for how long, from the fault on, Redis or Kafka may be away and states be passed
 * over; `stale`: older ones may be shown.
 */
export const faults = {
  'kill-edge': {
    what: 'kill -9 of one of three edges, started again 8 s later',
    seconds: 30, tolerance: 15,
    async run(cluster) {
      await cluster.run('kill', 'edge-2');
      await sleep(8);
      await cluster.run('start', 'edge-2');
    },
  },
  'restart-edge': {
    what: 'kill -9 of an edge, started again at once under its name',
    seconds: 25, tolerance: 15,
    async run(cluster) {
      await cluster.run('kill', 'edge-1');
      await cluster.run('start', 'edge-1');
    },
  },
  'pause-edge': {
    what: 'SIGSTOP of an edge for 10 s, twice its lease, then SIGCONT',
    seconds: 35, tolerance: 20,
    async prepare(cluster) {
      return { before: await stale(cluster) };
    },
    async run(cluster) {
      await cluster.run('pause', 'edge-3');
      await sleep(10);
      await cluster.run('resume', 'edge-3');
    },
    async after(cluster, found, { before }) {
      const now = await stale(cluster);
      const [fenced, refused, moved] = now.map((count, n) => count - before[n]);
      found.fact(`${fenced} vnodes fenced, ${refused} writes refused, ${moved} sessions told to move`);
      if (fenced + refused === 0) found.wrong('the edge that was stopped was fenced nowhere');
    },
  },
  'kill-leader': {
    what: 'kill -9 of the leading coordinator, and of an edge 1 s later',
    seconds: 35, tolerance: 20,
    async run(cluster) {
      const leader = await cluster.leader();
      await cluster.run('kill', leader);
      await sleep(1);
      await cluster.run('kill', 'edge-1');
      await sleep(10);
      await cluster.run('start', leader);
      await cluster.run('start', 'edge-1');
    },
  },
  'stop-redis': {
    what: 'Redis stopped for 20 s, then started with its data',
    seconds: 40, tolerance: 30,
    prepare: (cluster) => Spoken.gather(cluster),
    async run(cluster, { found, own }) {
      await cluster.run('stop', 'redis');
      const edges = await Promise.all(EDGES.map((edge) => cluster.pid(edge)));
      const memory = () => edges.map(resident);
      const stopped = now();
      const spoken = own.speak(14);
      await sleep(5);
      const early = memory();
      await spoken;
      await sleep(stopped + 20 - now());
      const grown = memory().map((bytes, n) => (bytes - early[n]) / 2 ** 20);
      const started = cluster.run('start', 'redis');
      const exact = await own.exact(await cluster.redisAnswers());
      await started;
      found.fact(`the store was exact ${exact.toFixed(1)} s after its return`);
      if (exact > EXACT) found.wrong(`the store was exact after ${exact.toFixed(1)} s and not ${EXACT}`);
      found.fact(`edges grew by ${grown.map((mib) => mib.toFixed(1)).join(' / ')} MiB from the 5th to the 20th second`);
      if (Math.max(...grown) > GROWTH) found.wrong(`an edge grew by more than ${GROWTH} MiB without Redis`);
    },
    async after(cluster, found, own, { outage }) {
      if (outage || own.lost() > 0) found.wrong(`sessions were lost, ${own.lost()} of them the scenario's`);
      if (own.ghosts() > 0) found.wrong(`${own.ghosts()} who left without Redis were not offline for good`);
      const differing = await own.differing();
      if (differing.length > 0) found.wrong(`in the end the store has ${differing[0]}, and ${differing.length - 1} more`);
    },
  },
  'pause-redis': {
    what: 'SIGSTOP of Redis for 20 s: it accepts and does not answer',
    // Until its requests have timed out, changes wait for it.
    seconds: 40, tolerance: 30, outage: 3,
    async run(cluster) {
      await cluster.run('pause', 'redis');
      await sleep(20);
      await cluster.run('resume', 'redis');
    },
  },
  'kill-redis': {
    what: 'kill -9 of Redis, started again at once',
    seconds: 25, tolerance: 15,
    async run(cluster) {
      await cluster.run('kill', 'redis');
      await cluster.run('start', 'redis');
    },
  },
  'flush-redis': {
    what: 'FLUSHALL',
    seconds: 25, tolerance: 15,
    async run(cluster) {
      execFileSync('redis-cli', ['-u', cluster.env.REDIS_URL, 'flushall'], { stdio: 'ignore' });
    },
  },
  'fill-redis': {
    what: 'Redis at maxmemory under noeviction for 60 s (OOM to each record), kill -9 of an edge after 15 s, started again 10 s later',
    // Its successors go by what Redis took before, until its users have said how they are.
    seconds: 90, tolerance: 15, outage: 62, stale: true,
    async run(cluster, { found }) {
      const redis = (...words) => execFileSync('redis-cli', ['-u', cluster.env.REDIS_URL, ...words], { encoding: 'utf8' });
      redis('config', 'set', 'maxmemory', '1');
      const began = now();
      await sleep(15);
      await cluster.run('kill', 'edge-2');
      await sleep(10);
      await cluster.run('start', 'edge-2');
      await sleep(began + 60 - now());
      const refused = await cluster.metric(1, 'redis_full_total');
      found.fact(`edge-1 had ${refused} writes refused`);
      if (refused === 0 || await cluster.metric(1, 'redis_full') !== 1) found.wrong('no edge says that Redis is full');
      redis('config', 'set', 'maxmemory', '0');
      const room = now();
      await cluster.until('all is written', async () => {
        const waiting = await Promise.all([1, 2, 3].map((edge) => cluster.metric(edge, 'redis_full')));
        return waiting.every((full) => full === 0);
      });
      found.fact(`Redis took records ${(now() - room).toFixed(1)} s after it had room`);
    },
  },
  'failover-cluster': {
    what: 'Redis Cluster: CLUSTER FAILOVER of each of three masters in turn',
    redis: 'cluster', seconds: 40, tolerance: 10,
    run: (cluster) => cluster.redis.failOver(),
  },
  'kill-cluster-master': {
    what: 'Redis Cluster: kill -9 of a master, whose replica takes over; started again 5 s later',
    redis: 'cluster', seconds: 40, tolerance: 10,
    run: (cluster, { found }) => loseMaster(() => cluster.redis.killMaster(), found),
  },
  'vanish-cluster-master': {
    what: 'Redis Cluster: the host of a master is gone without a word, and back 5 s after its replica took over',
    // Until the first requests have timed out, what its users change waits for them.
    redis: 'cluster', seconds: 40, tolerance: 10, outage: 3,
    run: (cluster, { found }) => loseMaster(() => cluster.redis.vanishMaster(), found),
  },
  'failover-sentinel': {
    what: 'Sentinel: a failover by request',
    redis: 'sentinel', seconds: 40, tolerance: 10,
    run: (cluster) => cluster.redis.failOver(),
  },
  'kill-sentinel-master': {
    what: 'Sentinel: kill -9 of the master, whose replica takes over; started again 5 s later',
    redis: 'sentinel', seconds: 45, tolerance: 10,
    run: (cluster, { found }) => loseMaster(() => cluster.redis.killMaster(), found),
  },
  'stop-kafka': {
    what: 'the Kafka broker stopped for 20 s',
    seconds: 70, tolerance: 10, outage: 35,
    async run(cluster, { second, found }) {
      await cluster.run('stop', 'kafka');
      await sleep(20);
      await cluster.run('start', 'kafka');
      const away = second() - BEFORE;
      found.fact(`Kafka answered after ${away.toFixed(1)} s`);
      if (away > this.outage) found.wrong(`Kafka was away for longer than the declared ${this.outage} s`);
    },
    after(cluster, found, own, { outage }) {
      if (outage) found.wrong('sessions were lost');
    },
  },
  'remake-topic': {
    what: 'the topic deleted under the edges, which make it again',
    seconds: 45, tolerance: 10, outage: 15,
    async run(cluster) {
      await cluster.kafka('TopicCommand', '--delete', '--topic', TOPIC);
    },
    async after(cluster, found) {
      const gaps = await Promise.all([1, 2, 3].map((edge) => cluster.metric(edge, 'bus_gaps_total')));
      found.fact(`${gaps.join(' / ')} gaps told to the edges since their start`);
    },
  },
  'add-partitions': {
    what: 'partitions added to the topic, 16 become 24, and seen by every edge',
    seconds: 140, tolerance: 10,
    async run(cluster, { found }) {
      await cluster.kafka('TopicCommand', '--alter', '--topic', TOPIC, '--partitions', '24');
      await cluster.until('every edge publishes to 24', async () => {
        const counts = [1, 2, 3].map((edge) => cluster.metric(edge, 'kafka_partitions'));
        return (await Promise.all(counts)).every((count) => count === 24);
      }, 130);
      found.fact('every edge published to 24 within the load');
    },
  },
  'retention-passes': {
    // No longer than users are waited for: a tool of Kafka's takes some seconds.
    what: 'SIGSTOP of an edge for some seconds, in which the brokers delete all that it has not read',
    seconds: 40, tolerance: 20,
    async prepare(cluster) {
      return { before: await cluster.metric(3, 'bus_gaps_total'), all: await cluster.allRecords(TOPIC) };
    },
    async run(cluster, { found, own }) {
      await cluster.run('pause', 'edge-3');
      const paused = now();
      await cluster.deleteRecords(own.all);
      await cluster.run('resume', 'edge-3');
      const time = now() - paused;
      found.fact(`it stood still for ${time.toFixed(1)} s`);
      if (time > 12) found.wrong('the brokers took too long: users may rightly be offline');
    },
    async after(cluster, found, { before }) {
      const gaps = await cluster.metric(3, 'bus_gaps_total') - before;
      found.fact(`${gaps} gaps told to the edge that stood still`);
      if (gaps === 0 && !cluster.linked()) found.wrong('the edge did not notice that events were deleted');
    },
  },
  'roll-edges': {
    what: 'every edge in turn stopped with SIGTERM and started again',
    seconds: 75, tolerance: 10,
    async run(cluster) {
      for (const edge of ['edge-1', 'edge-2', 'edge-3']) {
        await cluster.run('stop', edge);
        await cluster.run('start', edge);
        await cluster.settled();
      }
    },
  },
  'get-links': {
    what: 'edges without links, of which each in turn is stopped with SIGTERM and started again with the key',
    seconds: 75, tolerance: 10,
    async prepare(cluster) {
      const key = cluster.linked();
      await cluster.relink('');
      return { key: key || 'k'.repeat(40), close: () => cluster.relink(key) };
    },
    run: (cluster, { own }) => cluster.relink(own.key),
    async after(cluster, found) {
      const linked = await Promise.all([1, 2, 3].map((edge) => cluster.metric(edge, 'link_owners')));
      found.fact(`links to owners in the end: ${linked.join(' / ')}`);
      if (linked.some((links) => links !== 2)) found.wrong('not all edges have links to the two others');
    },
  },
  'lose-links': {
    what: 'the same the other way round: edges with links lose the key in turn',
    seconds: 75, tolerance: 10,
    async prepare(cluster) {
      const key = cluster.linked();
      if (!key) await cluster.relink('k'.repeat(40));
      return { close: () => cluster.relink(key) };
    },
    run: (cluster) => cluster.relink(''),
  },
  'add-edge': {
    what: 'a fourth edge comes, takes a quarter, and is drained again',
    seconds: 60, tolerance: 10,
    async run(cluster, { found }) {
      const before = await cluster.owners();
      await cluster.run('start', 'edge-4');
      await cluster.until('the fourth edge has its quarter', async () => {
        const { nodes } = await cluster.ask('/nodes');
        return nodes.find((node) => node.node === 'edge-4')?.vnodes === 1024;
      });
      await cluster.settled();
      quarter(before, await cluster.owners(), found);
      await cluster.run('stop', 'edge-4');
    },
  },
  'ghost-node': {
    what: 'kill -9 of an edge whose users do not come back',
    seconds: 50, tolerance: 15,
    prepare: (cluster) => Ghosts.gather(cluster, { edge: 'edge-1', ramp: 4 }),
    async run(cluster, { found, own }) {
      const { node, grace } = bounds(cluster);
      // The time of the signal itself counts.
      process.kill(await cluster.pid('edge-1'), 'SIGKILL');
      await own.judge(now(), { grace, bound: node }, found);
      await cluster.run('start', 'edge-1');
    },
  },
  'ghost-clients': {
    what: 'clients that stop answering, and keep their connections',
    seconds: 65, tolerance: 0,
    // Over the time between two pings, so that they are in every part of it.
    prepare: (cluster) => Ghosts.gather(cluster, { ramp: 25 }),
    async run(cluster, { found, own }) {
      const { client, grace } = bounds(cluster);
      await own.judge(own.vanish(), { grace, bound: client }, found);
    },
  },
  'partition-edge': {
    what: 'an edge cut off from Redis for 15 s, not from Kafka and its clients',
    // Its successors go by what Redis has, until its users have come to them.
    seconds: 45, tolerance: 30, outage: 20, stale: true,
    async around(cluster, load) {
      const proxy = await Proxy.to(Number(new URL(cluster.env.REDIS_URL).port));
      const base = Number(new URL(cluster.env.REDIS_URL).port) + 90;
      const edge = spawn(edgeProgram, ['run'], {
        env: {
          ...cluster.env, NODE_ID: 'edge-cut', REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
          ONLINE_STATUS_SERVER_LISTEN: `127.0.0.1:${base}`,
          ONLINE_STATUS_SERVER_ADMIN_LISTEN: `127.0.0.1:${base + 1}`,
          ONLINE_STATUS_CLUSTER_LINK_LISTEN: `127.0.0.1:${base + 2}`,
          ONLINE_STATUS_SERVER_CORES: '1', ONLINE_STATUS_SERVER_PIN: 'false',
        },
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      try {
        await cluster.until('the fourth edge has its quarter', async () => {
          const { nodes } = await cluster.ask('/nodes');
          return nodes.find((node) => node.node === 'edge-cut')?.vnodes === 1024;
        });
        return await load(async () => {
          proxy.partition();
          await sleep(15);
          proxy.heal();
        });
      } finally {
        edge.kill('SIGTERM');
        await new Promise((done) => edge.on('exit', done));
        proxy.close();
      }
    },
  },
};

/** What a scenario finds out by itself. */
export class Found {
  facts = [];
  failures = [];
  fact(text) { this.facts.push(text); }
  wrong(text) { this.failures.push(text); }
}

/** Runs one fault; what the bench counted, with what the scenario found. */
export async function one(cluster, name) {
  const fault = faults[name];
  const found = new Found();
  await cluster.settled();
  const own = await fault.prepare?.(cluster);
  try {
    const load = (run) => cluster.load(fault, run);
    const result = await (fault.around
      ? fault.around(cluster, load)
      : load((second) => fault.run(cluster, { second, found, own })));
    await fault.after?.(cluster, found, own, result);
    if (fault.stale) {
      found.fact(`${result.counts.strays} stale states`);
      result.failures = result.failures.filter((failure) => !failure.includes('state that it was not in'));
    }
    result.failures.push(...found.failures);
    return { ...result, facts: found.facts };
  } finally {
    await own?.close?.();
  }
}

const HEAD = ['fault', 'what', 'delivered', 'missed', 'flaps', 'reordered', 'wrong in the end', 'conflated',
  'slowest disturbed delivery', 'longest outage of a session', 'also'];
const cells = (all) => `| ${all.join(' | ')} |`;

export function row(name, result) {
  const { counts, disturbed, outage, facts } = result;
  const seconds = (histogram) => (histogram ? `${(histogram.max / 1e6).toFixed(1)} s` : '–');
  return cells([`\`${name}\``, faults[name].what, counts.delivered, counts.missed, counts.flaps,
    counts.reordered, counts.wrong_at_end, counts.conflated, seconds(disturbed), seconds(outage),
    facts.join('; ')]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(faults);
  const unknown = names.filter((name) => !faults[name]);
  if (unknown.length > 0) {
    console.error(`no such fault: ${unknown.join(', ')}; there are ${Object.keys(faults).join(', ')}`);
    process.exit(2);
  }
  const failed = [];
  console.log(`${cells(HEAD)}\n${cells(HEAD.map(() => '---'))}`);
  for (const kind of [undefined, 'cluster', 'sentinel']) {
    const chosen = names.filter((name) => faults[name].redis === kind);
    if (chosen.length > 0) await all(chosen, kind, failed);
  }
  for (const failure of failed) console.error(`FAILED ${failure}`);
  if (failed.length > 0) process.exitCode = 1;
}

/** Runs faults that want one kind of Redis. */
async function all(names, kind, failed) {
  const cluster = await Cluster.up(Number(process.env.ONLINE_STATUS_TEST_PORTS ?? 24000), kind);
  try {
    for (const name of names) {
      try {
        await cluster.redis?.replicated();
        const result = await one(cluster, name);
        console.log(row(name, result));
        if (result.failures.length > 0) {
          const examples = Object.entries(result.examples).map(([what, [first]]) => `\n  ${what}: ${first}`);
          failed.push(`${name}: ${result.failures.join('; ')}${examples.join('')}`);
        }
      } catch (error) {
        failed.push(`${name}: ${error.message}`);
      }
    }
  } finally {
    if (process.env.KEEP) console.log(`kept: ${cluster.folder}`);
    else await cluster.down();
  }
}
