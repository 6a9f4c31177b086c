// The kinds of Redis that fail over by themselves: a Redis Cluster with a replica for each master, and
// a master with a replica that three Sentinels watch. It owns their processes; when one is to fail, the
// faults decide.
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { sleep } from './cluster.mjs';

/** Each server's own address on this machine, so that its packets can be told from others'. */
const host = (port) => `127.0.${port >> 8}.${port & 255}`;
const NAME = 'presence';
/** Servers begin so far above the development cluster's ports, their cluster's bus so far above them. */
const PORTS = 92;
const BUS = 10;
const program = process.env.ONLINE_STATUS_DEV_REDIS_SERVER ?? 'redis-server';

/** What `redis-cli` prints; '' when the server does not answer. */
function ask(port, ...words) {
  try {
    return execFileSync('redis-cli', ['-h', host(port), '-p', String(port), ...words], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return '';
  }
}

async function until(what, good) {
  for (let tries = 0; tries < 300; tries += 1) {
    if (good()) return;
    await sleep(0.1);
  }
  throw new Error(`not within 30 s: ${what}`);
}

/** Servers of one kind, `cluster` or `sentinel`. */
export class Redis {
  processes = new Map();

  static async start(kind, portBase, folder) {
    const redis = new Redis();
    redis.folder = path.join(folder, 'redis-servers');
    mkdirSync(redis.folder);
    const port = (nth) => portBase + PORTS + nth;
    try {
      if (kind === 'cluster') await redis.cluster([0, 1, 2, 3, 4, 5].map(port));
      else await redis.sentinel([0, 1].map(port), [2, 3, 4].map(port));
    } catch (error) {
      redis.down();
      throw error;
    }
    return redis;
  }

  /** Starts a server, or again with what it has on disk. */
  async launch(port, ...settings) {
    const dir = path.join(this.folder, String(port));
    mkdirSync(dir, { recursive: true });
    const log = openSync(path.join(dir, 'log'), 'a');
    // Redis takes 127.0.0.1 alone for this machine, and protects itself from the rest.
    const base = ['--port', port, '--bind', host(port), '--bind-source-addr', host(port), '--protected-mode', 'no', '--dir', dir];
    const child = spawn(program, [...settings, ...base].map(String), { stdio: ['ignore', log, log], cwd: dir });
    this.processes.set(port, { child, settings });
    await until(`port ${port} answers`, () => ask(port, 'ping').includes('PONG'));
  }

  async cluster(ports) {
    const settings = (port) => ['--save', '', '--appendonly', 'yes', '--cluster-enabled', 'yes',
      '--cluster-port', port + BUS, '--cluster-node-timeout', '2000', '--cluster-require-full-coverage', 'no',
      '--repl-diskless-sync-delay', '0'];
    for (const port of ports) await this.launch(port, ...settings(port));
    ask(ports[0], '--cluster', 'create', ...ports.map((port) => `${host(port)}:${port}`), '--cluster-replicas', '1', '--cluster-yes');
    this.ports = ports;
    await until('the Redis Cluster is whole', () => ports.every((port) => {
      const info = ask(port, 'info', 'replication');
      return ask(port, 'cluster', 'info').includes('cluster_state:ok')
        && (info.includes('connected_slaves:1') || info.includes('master_link_status:up'));
    }));
    this.url = ports.map((port, nth) => (nth === 0 ? `redis://${host(port)}:${port}` : `${host(port)}:${port}`)).join(',');
  }

  async sentinel(servers, sentinels) {
    const settings = ['--save', '', '--appendonly', 'yes', '--repl-diskless-sync-delay', '0'];
    await this.launch(servers[0], ...settings);
    await this.launch(servers[1], ...settings, '--replicaof', host(servers[0]), servers[0]);
    for (const port of sentinels) {
      const file = path.join(this.folder, `sentinel-${port}.conf`);
      writeFileSync(file, [`sentinel monitor ${NAME} ${host(servers[0])} ${servers[0]} 2`,
        `sentinel down-after-milliseconds ${NAME} 2000`, `sentinel failover-timeout ${NAME} 10000`, ''].join('\n'));
      await this.launch(port, file, '--sentinel');
    }
    [this.ports, this.sentinels] = [servers, sentinels];
    await this.replicated();
    this.url = `redis+sentinel://${sentinels.map((port) => `${host(port)}:${port}`).join(',')}/${NAME}`;
  }

  /** Until each replica has what its master has, and the Sentinels know it. */
  async replicated() {
    await until('replicas follow', () => this.ports.every((port) => {
      const info = ask(port, 'info', 'replication');
      return info.includes('connected_slaves:1') || info.includes('master_link_status:up');
    }));
    await until('the Sentinels know the replica', () => (this.sentinels ?? []).every((port) => {
      const seen = ask(port, 'sentinel', 'masters');
      return /num-slaves\n1\n/.test(seen) && /num-other-sentinels\n2\n/.test(seen);
    }));
  }

  masters() {
    return this.ports.filter((port) => ask(port, 'info', 'replication').includes('role:master'));
  }

  /** Each master in turn gives way to its replica, in good order. */
  async failOver() {
    if (this.sentinels) {
      const before = this.masters();
      await until('a failover begins', () => ask(this.sentinels[0], 'sentinel', 'failover', NAME).includes('OK'));
      await until('another is the master', () => {
        const [master, ...more] = this.masters();
        return master !== before[0] && more.length === 0;
      });
      return;
    }
    for (const replica of this.ports.filter((port) => !this.masters().includes(port))) {
      ask(replica, 'cluster', 'failover');
      await until('the replica is the master', () => this.masters().includes(replica));
      await sleep(2);
    }
  }

  /** kill -9 of a master; until its replica is one. */
  async killMaster() {
    const [port, ...others] = this.masters();
    const { child, settings } = this.processes.get(port);
    child.kill('SIGKILL');
    await until('its replica is a master', () => this.masters().some((now) => now !== port && !others.includes(now)));
    return () => this.launch(port, ...settings);
  }

  /** A master's host is gone: nothing that it sends or is sent arrives. Until its replica is a master. */
  async vanishMaster() {
    const [port, ...others] = this.masters();
    const rules = ['-s', '-d'].map((end) => ['INPUT', '-i', 'lo', end, host(port), '-j', 'DROP']);
    for (const rule of rules) execFileSync('iptables', ['-I', ...rule]);
    this.heal = () => {
      this.heal = undefined;
      for (const rule of rules) execFileSync('iptables', ['-D', ...rule]);
    };
    const rest = this.ports.filter((other) => other !== port);
    await until('its replica is a master', () => rest
      .some((now) => !others.includes(now) && ask(now, 'info', 'replication').includes('role:master')));
    return this.heal;
  }

  down() {
    this.heal?.();
    for (const { child } of this.processes.values()) child.kill('SIGKILL');
  }
}
