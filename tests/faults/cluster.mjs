// A development cluster that faults happen to: its processes by name, its coordinators' answers, its
// load. It owns the way to them; which fault happens, and what is right, is others'.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Redis } from './redis.mjs';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const edgeProgram = path.join(root, 'target/release/online-status-edge');
const SESSIONS = 600;
const RATE = 150;
const VNODES = 4096;
/** Seconds of load before the fault. */
export const BEFORE = 3;
export const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
/** Seconds of a clock that nobody sets. */
export const now = () => performance.now() / 1000;

/** KEY=value lines. */
function variables(text) {
  const split = (line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)];
  return Object.fromEntries(text.split('\n').filter((line) => line.includes('=')).map(split));
}

/** A cluster of its own: three edges, two coordinators, Redis of some kind, Kafka. */
export class Cluster {
  /** `kind`: of Redis, when it is more than one server. */
  static async up(portBase, kind) {
    const cluster = new Cluster();
    cluster.folder = mkdtempSync(path.join(tmpdir(), 'online-status-faults-'));
    cluster.env = { ...process.env, ONLINE_STATUS_DEV_DIR: cluster.folder };
    const only = [];
    if (kind) {
      cluster.redis = await Redis.start(kind, portBase, cluster.folder);
      cluster.env.ONLINE_STATUS_REDIS_URL = cluster.redis.url;
      only.push('--only', 'kafka,coordinator-1,coordinator-2,edge-1,edge-2,edge-3');
    }
    await cluster.run('up', '--no-build', '--port-base', String(portBase), ...only);
    Object.assign(cluster.env, variables(await cluster.run('env')));
    return cluster;
  }

  /** A command of scripts/dev-cluster; what it prints. This process goes on meanwhile. */
  async run(...command) {
    const script = path.join(root, 'scripts/dev-cluster');
    return (await promisify(execFile)(script, command, { env: this.env })).stdout;
  }

  /** The key of the edges' links; empty = they have none. */
  linked() {
    return this.env.ONLINE_STATUS_CLUSTER_LINK_KEY;
  }

  /** Every edge in turn goes on with this key, and the others after it with the one before. */
  async relink(key) {
    this.env.ONLINE_STATUS_CLUSTER_LINK_KEY = key;
    const file = path.join(this.folder, 'environment');
    const others = readFileSync(file, 'utf8').split('\n').filter((line) => !line.includes('CLUSTER_LINK_KEY'));
    writeFileSync(file, `${others.join('\n')}\nexport ONLINE_STATUS_CLUSTER_LINK_KEY='${key}'\n`);
    for (const edge of ['edge-1', 'edge-2', 'edge-3']) {
      await this.run('stop', edge);
      await this.run('start', edge);
      await this.settled();
    }
  }

  async down() {
    await this.run('down');
    this.redis?.down();
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

  /** The records of users, as they are in the store. */
  async stored(users) {
    const headers = { authorization: `Bearer ${this.token('faults', 'presence:admin')}` };
    const body = JSON.stringify({ users });
    return (await this.ask('/status', { method: 'POST', headers, body })).users;
  }

  /** The owner of each vnode. */
  async owners() {
    const owners = new Array(VNODES).fill(null);
    for (const run of (await this.ask('/map')).runs) owners.fill(run.node, run.first, run.last + 1);
    return owners;
  }

  /** A token like those of `scripts/dev-cluster token`, which is a process each. */
  token(user, scope) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 3600, ...(scope && { scope }) };
    const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
    return `${signed}.${createHmac('sha256', this.env.JWT_SECRET).update(signed).digest('base64url')}`;
  }

  /** Waits until `good` is; it may throw why it is not. */
  async until(what, good, seconds = 60) {
    let why = '';
    for (const end = now() + seconds; now() < end; await sleep(0.2)) {
      try {
        if (await good()) return;
      } catch (error) {
        why = `: ${error.message}`;
      }
    }
    throw new Error(`not within ${seconds} s: ${what}${why}`);
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
      if (owned === VNODES && even && nodes.every((node) => !node.moving)) return true;
      const states = nodes.map((node) => `${node.node} ${node.state} ${node.vnodes}, ${node.moving} moving`);
      throw new Error(states.join('; '));
    });
  }

  /** The process of a name. */
  async pid(name) {
    const key = `${name.toUpperCase().replace('-', '_')}_PID`;
    return Number(variables(await this.run('env'))[key]);
  }

  /** A metric of an edge, summed over its labels. */
  async metric(edge, name) {
    const page = await (await fetch(`${this.env[`EDGE_${edge}_ADMIN`]}/metrics`)).text();
    return page.split('\n').filter((line) => line.match(`^online_status_${name}[ {]`))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  /** One of Kafka's own tools, by its class. */
  async kafka(tool, ...options) {
    const libraries = execFileSync(path.join(root, 'scripts/fetch-kafka'), { encoding: 'utf8' }).trim();
    const command = ['-Xmx256m', '-cp', `${libraries}/*`, `org.apache.kafka.tools.${tool}`,
      '--bootstrap-server', this.env.KAFKA_BROKERS, ...options];
    return (await promisify(execFile)('java', command)).stdout;
  }

  /** A file that names all events of a topic. */
  async allRecords(topic) {
    const told = await this.kafka('TopicCommand', '--describe', '--topic', topic);
    const partitions = [...told.matchAll(/Partition: (\d+)/g)].map(([, number]) => Number(number));
    const all = partitions.map((partition) => ({ topic, partition, offset: -1 }));
    const file = path.join(this.folder, 'delete.json');
    writeFileSync(file, JSON.stringify({ version: 1, partitions: all }));
    return file;
  }

  /** Deletes the events that such a file names, as the end of their retention does. */
  async deleteRecords(file) {
    await this.kafka('DeleteRecordsCommand', '--offset-json-file', file);
  }

  /** Until Redis answers a ping; the time. */
  async redisAnswers() {
    const answers = () => new Promise((done) => {
      const socket = net.connect(Number(new URL(this.env.REDIS_URL).port), '127.0.0.1');
      socket.setTimeout(1000, () => socket.destroy());
      socket.on('connect', () => socket.write('PING\r\n'));
      socket.on('data', (data) => { done(String(data) === '+PONG\r\n'); socket.destroy(); });
      socket.on('error', () => {});
      socket.on('close', () => done(false));
    });
    for (const end = now() + 60; !await answers(); await sleep(0.02)) {
      if (now() > end) throw new Error('Redis does not answer');
    }
    return now();
  }

  /**
   * Load for `fault.seconds` in which `happens` is called with a clock of the load's seconds; what
   * the bench counted.
   */
  async load(fault, happens) {
    const { seconds, tolerance, outage } = fault;
    const bench = spawn(path.join(root, 'target/release/online-status-bench'), [
      'presence', '--coordinator', this.env.COORDINATOR_URLS, '--sessions', String(SESSIONS),
      '--rate', String(RATE), '--duration', String(seconds), '--json',
      '--outage-tolerance', String(tolerance), '--drain', '10', '--probe', '1',
      ...(outage ? ['--outage-at', `${BEFORE}:${outage}`] : []),
    ], { env: this.env, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    bench.stdout.on('data', (text) => { out += text; });
    const ended = new Promise((done) => bench.on('close', done));
    const begun = new Promise((done) => bench.stderr.on('data', (text) => {
      err += text;
      if (err.includes('the measured part begins')) done();
    }));
    await Promise.race([begun, ended]);
    const start = now() + 0.1;
    await sleep(start + BEFORE - now());
    // The bench is not left behind by a fault that fails.
    const [happened] = await Promise.allSettled([happens(() => now() - start), ended]);
    if (happened.status === 'rejected') throw happened.reason;
    try {
      return JSON.parse(out);
    } catch {
      throw new Error(`the bench gave no result: ${err}`);
    }
  }
}

/** Resident memory of a process, bytes. */
export function resident(pid) {
  return Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s*(\d+) kB/)[1]) * 1024;
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
