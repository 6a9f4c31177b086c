// Stands in for the nodes of a cluster, kubelet and kube-proxy, for rollout: each Pod that is bound to one of them is a
// process of this host. It does to a Pod what a kubelet does (settings, probes, conditions, the end with its grace
// period), and to Services what kube-proxy does. What differs: no image is pulled, its program is that of
// target/release, with the entry point and the ENV of its stage in docker/Dockerfile; and 0.0.0.0 in a setting is the
// Pod's own address, since the Pods share one network. A Pod that asks for more (volumes, hooks, init containers) is an
// error. Every change is a line: time, Pod, what.
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

// What `kubectl proxy` serves, and where the Pods' output goes.
const [api, logs] = process.argv.slice(2);
const NODES = ['node-1', 'node-2', 'node-3'];
const root = fileURLToPath(new URL('../..', import.meta.url));
const release = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release');
const sleep = (seconds) => new Promise((done) => { setTimeout(done, seconds * 1000); });
const now = () => `${new Date().toISOString().slice(0, 19)}Z`;

async function ask(method, where, body, type = 'application/json') {
  const answer = await fetch(api + where, { method, headers: { 'content-type': type }, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${where}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const patch = (where, status) => ask('PATCH', `${where}/status`, { status }, 'application/strategic-merge-patch+json');

/** What is there, and every change after it. */
async function* watch(where) {
  const { body } = await fetch(`${api}${where}?watch=true&resourceVersion=0`);
  let rest = '';
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.type === 'ERROR') throw new Error(line);
      yield event;
    }
  }
  throw new Error(`the watch of ${where} has ended`);
}

/** The program of an image, and its settings. */
function image(name) {
  const [stage] = name.match(/(?<=^online-status-)\w+/);
  const [text] = fs.readFileSync(path.join(root, 'docker/Dockerfile'), 'utf8').match(new RegExp(`(?<=AS ${stage}\n)(.+\n)*`));
  const [, settings] = text.match(/^ENV (.*)$/m);
  return {
    command: JSON.parse(text.match(/^ENTRYPOINT (.*)$/m)[1]),
    env: Object.fromEntries(settings.split(' ').map((setting) => setting.split('='))),
  };
}

const decoded = (data) => Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value, 'base64').toString()]));

class Pod {
  static #addresses = 0;

  constructor(object) {
    Object.assign(this, { object, name: object.metadata.name, restarts: 0, ready: false, conditions: {} });
    this.ip = `10.244.0.${Pod.#addresses += 1}`;
    const { spec } = object;
    [this.container] = spec.containers;
    const unknown = [spec.initContainers, spec.volumes, this.container.lifecycle, spec.containers[1]].some(Boolean);
    if (unknown) throw new Error(`${this.name} has something that this stand-in does not know`);
    this.run();
  }

  say(what) { console.log(`${(Date.now() / 1000).toFixed(1)} ${this.name} ${what}`); }

  get where() { return `/api/v1/namespaces/${this.object.metadata.namespace}/pods/${this.name}`; }

  async data(kind, name) {
    const { data } = await ask('GET', `/api/v1/namespaces/${this.object.metadata.namespace}/${kind}/${name}`);
    return kind === 'secrets' ? decoded(data) : data;
  }

  async environment() {
    const env = {};
    for (const { configMapRef, secretRef } of this.container.envFrom ?? []) {
      Object.assign(env, configMapRef ? await this.data('configmaps', configMapRef.name) : await this.data('secrets', secretRef.name));
    }
    for (const { name, value = '', valueFrom } of this.container.env ?? []) {
      const { fieldRef, secretKeyRef, configMapKeyRef } = valueFrom ?? {};
      if (fieldRef) env[name] = { 'metadata.name': this.name, 'status.podIP': this.ip }[fieldRef.fieldPath];
      else if (secretKeyRef) env[name] = (await this.data('secrets', secretKeyRef.name))[secretKeyRef.key];
      else if (configMapKeyRef) env[name] = (await this.data('configmaps', configMapKeyRef.name))[configMapKeyRef.key];
      // What comes later is not known yet, and stays as it is written.
      else env[name] = value.replace(/\$\$|\$\(([^)]+)\)/g, (all, key) => (key ? env[key] ?? all : '$'));
      if (env[name] === undefined) throw new Error(`${this.name}: nothing is known for ${name}`);
    }
    return env;
  }

  async run() {
    const { command, env } = image(this.container.image);
    const [program, ...words] = [...(this.container.command ?? command), ...(this.container.args ?? [])];
    const settings = Object.entries({ ...env, ...await this.environment() });
    const log = fs.openSync(path.join(logs, `${this.name}.log`), 'a');
    this.process = spawn(path.join(release, program), words, {
      cwd: '/',
      env: { HOSTNAME: this.name, ...Object.fromEntries(settings.map(([key, value]) => [key, value.replaceAll('0.0.0.0', this.ip)])) },
      stdio: ['ignore', log, log],
    });
    fs.closeSync(log);
    this.say(`started on ${this.object.spec.nodeName} as ${this.ip}`);
    this.started = now();
    const ended = new Promise((done) => { this.process.on('exit', (code, signal) => done(code ?? signal)); });
    this.probes(this.process);
    await this.report();
    const why = await ended;
    this.process = null;
    this.say(`ended with ${why}`);
    if (this.ending) {
      clearTimeout(this.ending);
      await ask('DELETE', this.where, { kind: 'DeleteOptions', apiVersion: 'v1', gracePeriodSeconds: 0, preconditions: { uid: this.object.metadata.uid } });
      return;
    }
    this.restarts += 1;
    await this.judge(false);
    await sleep(1);
    await this.run();
  }

  async probes(process) {
    const { startupProbe, readinessProbe, livenessProbe } = this.container;
    const alive = (good) => { if (!good && !this.ending) this.end(this.object.spec.terminationGracePeriodSeconds, 'liveness'); };
    if (startupProbe) await this.probe(process, startupProbe, (good) => { alive(good); return good; });
    this.probe(process, readinessProbe, (good) => this.judge(good));
    this.probe(process, livenessProbe, alive);
  }

  /** Asks as often as the probe says, and tells when enough answers were the same; until `judged` says true. */
  async probe(process, probe, judged) {
    let [last, run] = [null, 0];
    await sleep(probe.initialDelaySeconds ?? 0);
    for (; this.process === process; await sleep(probe.periodSeconds)) {
      const good = await this.get(probe);
      run = good === last ? run + 1 : 1;
      last = good;
      if (run === (good ? probe.successThreshold : probe.failureThreshold) && this.process === process && await judged(good) === true) return;
    }
  }

  get({ httpGet, timeoutSeconds }) {
    const { containerPort } = this.container.ports.find(({ name }) => name === httpGet.port);
    return new Promise((done) => {
      const request = http.get({ host: this.ip, port: containerPort, path: httpGet.path, timeout: timeoutSeconds * 1000, agent: false });
      request.on('timeout', () => request.destroy());
      request.on('response', (answer) => { answer.resume(); done(answer.statusCode >= 200 && answer.statusCode < 400); });
      request.on('error', () => done(false));
    });
  }

  async judge(ready) {
    if (ready === this.ready) return;
    this.ready = ready;
    this.say(ready ? 'ready' : 'unready');
    await this.report();
  }

  /** Tells the state, and only when the one before is told: of two at once the older one could come last. */
  report() {
    this.reported = Promise.resolve(this.reported).then(() => this.tell());
    return this.reported;
  }

  async tell() {
    const condition = (type, good) => {
      const status = good ? 'True' : 'False';
      if (this.conditions[type]?.status !== status) this.conditions[type] = { type, status, lastTransitionTime: now() };
      return this.conditions[type];
    };
    const { name, image: of } = this.container;
    const state = this.process ? { running: { startedAt: this.started } } : { waiting: { reason: 'CrashLoopBackOff' } };
    await patch(this.where, {
      phase: 'Running', startTime: this.started, hostIP: '10.244.255.1', podIP: this.ip, podIPs: [{ ip: this.ip }],
      conditions: [condition('Initialized', true), condition('ContainersReady', this.ready), condition('Ready', this.ready)],
      containerStatuses: [{ name, image: of, imageID: of, ready: this.ready, started: true, restartCount: this.restarts, state }],
    });
  }

  /** SIGTERM, and SIGKILL so many seconds later. */
  end(grace, why) {
    this.say(`ending: ${why}`);
    const { process } = this;
    process?.kill('SIGTERM');
    return setTimeout(() => {
      if (this.process !== process) return;
      this.say('killed');
      process?.kill('SIGKILL');
    }, grace * 1000);
  }
}

async function kubelet() {
  const pods = new Map();
  for await (const { object } of watch('/api/v1/pods')) {
    const { uid, deletionTimestamp, deletionGracePeriodSeconds } = object.metadata;
    if (!NODES.includes(object.spec.nodeName)) continue;
    if (!pods.has(uid)) pods.set(uid, new Pod(object));
    const pod = pods.get(uid);
    if (deletionTimestamp) pod.ending ??= pod.end(deletionGracePeriodSeconds, 'deleted');
  }
}

async function nodes() {
  const size = { cpu: '4', memory: '8Gi', pods: '20' };
  const labels = (name) => ({ 'kubernetes.io/hostname': name });
  for (const name of NODES) await ask('POST', '/api/v1/nodes', { metadata: { name, labels: labels(name) } });
  for (;; await sleep(10)) {
    for (const name of NODES) {
      const ready = { type: 'Ready', status: 'True', reason: 'KubeletReady', lastHeartbeatTime: now() };
      await patch(`/api/v1/nodes/${name}`, { capacity: size, allocatable: size, conditions: [ready] });
    }
  }
}

/**
 * Has the kernel send each new connection to a Service's address on to an endpoint that is ready, or else to one that
 * ends and still serves, as kube-proxy has it. A proxy of this process would be a part of what is measured: it takes one
 * connection in each turn of its loop, so that on a busy machine clients wait seconds for a session.
 */
async function proxy() {
  const nft = (...lines) => execFileSync('nft', ['-f', '-'], { input: lines.join('\n') });
  nft('add table ip services', 'add chain ip services output { type nat hook output priority -100; }');
  const slices = new Map();
  const endpoints = (service, name) => {
    const of = [...slices.values()].filter(({ metadata }) => metadata.labels['kubernetes.io/service-name'] === service);
    const all = of.flatMap(({ endpoints, ports }) => (endpoints ?? []).map(({ addresses: [host], conditions }) => (
      { host, conditions, port: ports.find((port) => port.name === name)?.port })));
    const ready = all.filter(({ conditions }) => conditions.ready);
    return ready.length > 0 ? ready : all.filter(({ conditions }) => conditions.serving && conditions.terminating);
  };
  const { items } = await ask('GET', '/api/v1/namespaces/default/services');
  const services = items.filter(({ spec }) => spec.selector && spec.clusterIP !== 'None');
  const unserved = new Set();
  for await (const { type, object } of watch('/apis/discovery.k8s.io/v1/endpointslices')) {
    if (type === 'DELETED') slices.delete(object.metadata.uid);
    else slices.set(object.metadata.uid, object);
    const rules = ['flush chain ip services output'];
    for (const { metadata: { name }, spec: { clusterIP, ports } } of services) {
      for (const port of ports) {
        const all = endpoints(name, port.name);
        if (all.length > 0) {
          const to = all.map((endpoint, n) => `${n} : ${endpoint.host} . ${endpoint.port}`);
          rules.push(`add rule ip services output ip daddr ${clusterIP} tcp dport ${port.port} dnat ip to numgen random mod ${all.length} map { ${to} }`);
          unserved.delete(name);
        } else if (!unserved.has(name)) {
          // Nobody listens at the Service's address itself, so that the kernel refuses what has no rule.
          unserved.add(name);
          console.log(`${(Date.now() / 1000).toFixed(1)} ${name} unserved`);
        }
      }
    }
    nft(...rules);
  }
}

await Promise.all([nodes(), kubelet(), proxy()]);
