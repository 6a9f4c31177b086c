// Faults on the real processes of a development cluster, under a running load whose own counters
// decide: `node tests/faults/faults.mjs [NAME…]` prints one row a fault. It owns the faults; starting
// and stopping is `scripts/dev-cluster`, right and wrong is `online-status-bench`.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const SESSIONS = 600;
const RATE = 150;
/** Seconds of load before the fault. */
const BEFORE = 4;
export const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

/** A cluster of its own: three edges, two coordinators, Redis, Kafka. */
export class Cluster {
  constructor(portBase) {
    this.folder = mkdtempSync(path.join(tmpdir(), 'online-status-faults-'));
    this.env = { ...process.env, ONLINE_STATUS_DEV_DIR: this.folder };
    this.run('up', '--no-build', '--port-base', String(portBase));
    for (const line of this.run('env').split('\n')) {
      const at = line.indexOf('=');
      if (at > 0) this.env[line.slice(0, at)] = line.slice(at + 1);
    }
  }

  run(...command) {
    return execFileSync(path.join(root, 'scripts/dev-cluster'), command, {
      env: this.env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'],
    });
  }

  down() {
    this.run('down');
    rmSync(this.folder, { recursive: true, force: true });
  }

  coordinators() {
    return this.env.COORDINATOR_URLS.split(',');
  }

  /** Asks the first coordinator that answers. */
  async ask(what, options) {
    for (const url of this.coordinators()) {
      try {
        const answer = await fetch(url + what, { ...options, signal: AbortSignal.timeout(2000) });
        if (answer.ok) return await answer.json();
      } catch { /* the other one */ }
    }
    throw new Error(`no coordinator answers ${what}`);
  }

  /** Waits until `good` is. */
  async until(what, good, seconds = 60) {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      try {
        if (await good()) return;
      } catch { /* not yet */ }
      if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
      await sleep(0.2);
    }
  }

  async leader() {
    for (const [n, url] of this.coordinators().entries()) {
      try {
        const nodes = await (await fetch(`${url}/nodes`)).json();
        if (nodes.leading) return `coordinator-${n + 1}`;
      } catch { /* it is not that one */ }
    }
    return null;
  }

  /** Until no vnode is on its way and all have an owner. */
  async settled() {
    await this.until('the map settles', async () => {
      const { nodes } = await this.ask('/nodes');
      const living = nodes.filter((node) => node.state === 'active');
      const owned = nodes.reduce((sum, node) => sum + node.vnodes, 0);
      const shares = living.map((node) => node.vnodes);
      const even = Math.max(...shares) - Math.min(...shares) <= 1;
      return owned === 4096 && even && nodes.every((node) => !node.moving);
    });
  }

  /** A metric of an edge, summed over its labels; 0 when the edge does not answer. */
  async metric(edge, name) {
    const page = await (await fetch(`${this.env[`EDGE_${edge}_ADMIN`]}/metrics`)).text();
    return page.split('\n').filter((line) => line.match(`^online_status_${name}[ {]`))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  /** Load for so many seconds in which `fault` happens; what the bench counted. */
  async load(seconds, tolerance, fault) {
    const bench = new Promise((done, failed) => {
      execFile(path.join(root, 'target/release/online-status-bench'), [
        'presence', '--coordinator', this.env.COORDINATOR_URLS, '--sessions', String(SESSIONS),
        '--rate', String(RATE), '--duration', String(seconds), '--quiet', '--json',
        '--outage-tolerance', String(tolerance), '--drain', '10', '--probe', '1',
      ], { env: this.env, maxBuffer: 1 << 28 }, (error, out, err) => {
        try {
          done(JSON.parse(out));
        } catch {
          failed(new Error(`the bench gave no result: ${error} ${err}`));
        }
      });
    });
    // A fault that fails must not leave the bench's answer unheard.
    bench.catch(() => {});
    await sleep(BEFORE);
    await fault();
    return await bench;
  }
}

/** A TCP proxy that can be cut. */
export class Proxy {
  static async to(port) {
    const proxy = new Proxy();
    proxy.sockets = new Set();
    proxy.cut = false;
    proxy.server = net.createServer((client) => {
      if (proxy.cut) return client.destroy();
      const server = net.connect(port, '127.0.0.1');
      for (const [from, to] of [[client, server], [server, client]]) {
        proxy.sockets.add(from);
        from.on('data', (bytes) => { if (!proxy.cut) to.write(bytes); });
        from.on('error', () => to.destroy());
        from.on('close', () => { proxy.sockets.delete(from); to.destroy(); });
      }
    });
    await new Promise((done) => proxy.server.listen(0, '127.0.0.1', done));
    proxy.port = proxy.server.address().port;
    return proxy;
  }

  /** Nothing passes any more: what is open hangs, nobody new comes in. */
  partition() { this.cut = true; }

  heal() {
    this.cut = false;
    for (const socket of this.sockets) socket.destroy();
  }

  close() {
    this.heal();
    this.server.close();
  }
}

/** Each fault: what it does, and what else must be true. */
export const faults = {
  'kill-edge': {
    what: 'kill -9 of one of three edges, started again 8 s later',
    seconds: 30, tolerance: 15,
    async run(cluster) {
      cluster.run('kill', 'edge-2');
      await sleep(8);
      cluster.run('start', 'edge-2');
    },
  },
  'restart-edge': {
    what: 'kill -9 of an edge, started again at once under its name',
    seconds: 25, tolerance: 15,
    async run(cluster) {
      cluster.run('kill', 'edge-1');
      cluster.run('start', 'edge-1');
    },
  },
  'pause-edge': {
    what: 'SIGSTOP of an edge for 10 s, twice its lease, then SIGCONT',
    seconds: 35, tolerance: 20,
    async run(cluster) {
      cluster.run('pause', 'edge-3');
      await sleep(10);
      cluster.run('resume', 'edge-3');
    },
    async after(cluster) {
      const lost = await cluster.metric(3, 'fenced_total') + await cluster.metric(3, 'moved_total');
      if (lost === 0) throw new Error('the edge that was stopped gave nothing up');
    },
  },
  'kill-leader': {
    what: 'kill -9 of the leading coordinator, and of an edge 1 s later',
    seconds: 35, tolerance: 20,
    async run(cluster) {
      const leader = await cluster.leader();
      cluster.run('kill', leader);
      await sleep(1);
      cluster.run('kill', 'edge-1');
      await sleep(10);
      cluster.run('start', leader);
      cluster.run('start', 'edge-1');
    },
  },
  'stop-redis': {
    what: 'Redis stopped for 20 s, then started with its data',
    seconds: 40, tolerance: 30,
    async run(cluster) {
      cluster.run('stop', 'redis');
      await sleep(20);
      cluster.run('start', 'redis');
    },
  },
  'pause-redis': {
    what: 'SIGSTOP of Redis for 20 s: it accepts and does not answer',
    seconds: 40, tolerance: 30,
    async run(cluster) {
      cluster.run('pause', 'redis');
      await sleep(20);
      cluster.run('resume', 'redis');
    },
  },
  'kill-redis': {
    what: 'kill -9 of Redis, started again at once',
    seconds: 25, tolerance: 15,
    async run(cluster) {
      cluster.run('kill', 'redis');
      cluster.run('start', 'redis');
    },
  },
  'flush-redis': {
    what: 'FLUSHALL',
    seconds: 25, tolerance: 15,
    async run(cluster) {
      execFileSync('redis-cli', ['-u', cluster.env.REDIS_URL, 'flushall'], { stdio: 'ignore' });
    },
  },
  'stop-kafka': {
    what: 'the Kafka broker stopped for 20 s',
    seconds: 45, tolerance: 40,
    async run(cluster) {
      cluster.run('stop', 'kafka');
      await sleep(20);
      cluster.run('start', 'kafka');
    },
  },
  'roll-edges': {
    what: 'every edge in turn stopped with SIGTERM and started again',
    seconds: 75, tolerance: 10,
    async run(cluster) {
      for (const edge of ['edge-1', 'edge-2', 'edge-3']) {
        cluster.run('stop', edge);
        cluster.run('start', edge);
        await cluster.settled();
      }
    },
  },
  'add-edge': {
    what: 'a fourth edge comes, takes a quarter, and is drained again',
    seconds: 60, tolerance: 10,
    async run(cluster) {
      const before = (await cluster.ask('/nodes')).mapVersion;
      cluster.run('start', 'edge-4');
      await cluster.until('the fourth edge has its quarter', async () => {
        const { nodes } = await cluster.ask('/nodes');
        return nodes.find((node) => node.node === 'edge-4')?.vnodes === 1024;
      });
      await cluster.settled();
      if ((await cluster.ask('/nodes')).mapVersion === before) throw new Error('no map was made');
      cluster.run('stop', 'edge-4');
    },
  },
  'partition-edge': {
    what: 'an edge cut off from Redis for 15 s, not from Kafka and its clients',
    seconds: 45, tolerance: 30,
    async around(cluster, load) {
      const proxy = await Proxy.to(Number(new URL(cluster.env.REDIS_URL).port));
      const base = Number(new URL(cluster.env.REDIS_URL).port) + 90;
      const edge = spawn(path.join(root, 'target/release/online-status-edge'), ['run'], {
        env: {
          ...cluster.env, NODE_ID: 'edge-cut', REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
          ONLINE_STATUS_SERVER_LISTEN: `127.0.0.1:${base}`,
          ONLINE_STATUS_SERVER_ADMIN_LISTEN: `127.0.0.1:${base + 1}`,
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

/** Runs one fault; what the bench counted. */
export async function one(cluster, name) {
  const fault = faults[name];
  await cluster.settled();
  const load = (run) => cluster.load(fault.seconds, fault.tolerance, run);
  const result = await (fault.around
    ? fault.around(cluster, load)
    : load(() => fault.run(cluster)));
  await fault.after?.(cluster);
  return result;
}

export function row(name, result) {
  const { counts, disturbed, outage } = result;
  const seconds = (histogram) => (histogram ? `${(histogram.max / 1e6).toFixed(1)} s` : '–');
  return `| \`${name}\` | ${faults[name].what} | ${counts.delivered} | ${counts.missed} | `
    + `${counts.flaps} | ${counts.reordered} | ${counts.wrong_at_end} | ${counts.conflated} | `
    + `${seconds(disturbed)} | ${seconds(outage)} |`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(faults);
  const cluster = new Cluster(Number(process.env.ONLINE_STATUS_TEST_PORTS ?? 24000));
  try {
    for (const name of names) {
      try {
        const result = await one(cluster, name);
        console.log(row(name, result), result.failures.length ? 'FAILED: ' + result.failures.join('; ') : '');
        if (result.failures.length) process.exitCode = 1;
      } catch (error) {
        console.log(`| \`${name}\` | FAILED: ${error.message} |`);
        process.exitCode = 1;
      }
    }
  } finally {
    if (process.env.KEEP) console.log(`kept: ${cluster.folder}`);
    else cluster.down();
  }
}
