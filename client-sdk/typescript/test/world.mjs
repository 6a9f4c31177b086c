// The scripted world that the files of behaviour/ speak of: a clock, sockets, fetch, a token function, a page.
import assert from 'node:assert/strict';
import { Checker } from './schema.mjs';

const START = 1_800_000_000_000;
/** Of all messages that clients send and are sent in these worlds. */
export const sent = new Checker('clientMessage');
export const said = new Checker('serverMessage');
const base64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

export function expand(users) {
  if (Array.isArray(users)) return users;
  return Array.from({ length: users.count }, (_, n) => users.name.replace('%', n + 1));
}

function fits(is, want) {
  if (want === null) return is === undefined;
  if (Array.isArray(want)) {
    return Array.isArray(is) && is.length === want.length && (want.every((one) => typeof one === 'string')
      ? JSON.stringify([...is].sort()) === JSON.stringify([...want].sort()) : want.every((one, n) => fits(is[n], one)));
  }
  if (typeof want === 'object') return typeof is === 'object' && is !== null && Object.entries(want).every(([name, one]) => fits(is[name], one));
  return is === want;
}

class Target {
  listeners = {};
  visibilityState = 'visible';
  addEventListener(type, listener) { (this.listeners[type] ??= new Set()).add(listener); }
  removeEventListener(type, listener) { this.listeners[type]?.delete(listener); }
  dispatch(type, event = {}) { for (const listener of this.listeners[type] ?? []) listener({ type, ...event }); }
}

export class World {
  now = START;
  /** How far the clock was set, and the raster that timers fire in, ms. */
  set = 0;
  throttle = 1;
  timers = [];
  /** What the client did and nobody expected yet, by kind. */
  did = { token: [], route: [], health: [], dial: [], error: [], done: [] };
  tokens = [];
  open = { route: [], health: [] };
  sockets = {};
  ids = {};
  watches = {};
  seen = {};
  versions = {};

  constructor(script, Client) {
    this.script = script;
    const world = this;
    class Socket {
      protocol = '';
      readyState = 0;
      sent = [];
      closed = [];
      constructor(address, protocols) {
        this.address = address;
        this.protocols = protocols;
        world.did.dial.push(this);
      }
      send(text) {
        assert.equal(this.readyState, 1, 'a message on a connection that is not open');
        const message = JSON.parse(text);
        sent.check(message);
        if (message.type === 'ping' && script.pongs !== false) {
          queueMicrotask(() => this.readyState === 1 && this.onmessage({ data: JSON.stringify({ type: 'pong', id: message.id }) }));
        } else this.sent.push(Object.assign(message, { bytes: Buffer.byteLength(text) }));
      }
      close(code) {
        if (this.readyState > 1) return;
        this.readyState = 3;
        this.closed.push(code);
      }
    }
    this.page = { window: new Target(), document: new Target() };
    const fetch = (url) => new Promise((resolve, reject) => {
      const kind = new URL(url).pathname === '/route' ? 'route' : 'health';
      this.did[kind].push(url);
      this.open[kind].push({ resolve, reject });
    });
    this.client = Client.createPresence({
      route: 'http://route.test',
      token: () => new Promise((resolve, reject) => {
        this.did.token.push({});
        this.tokens.push({ resolve, reject });
      }),
      autoAway: 0,
      ...script.options,
      WebSocket: Socket,
      fetch,
      random: () => script.random ?? 0.5,
      page: script.needs?.includes('page') ? this.page : null,
      clock: {
        now: () => this.now + this.set,
        setTimeout: (call, ms) => {
          const timer = { at: Math.ceil((this.now + ms) / this.throttle) * this.throttle, call };
          this.timers.push(timer);
          return timer;
        },
        clearTimeout: (timer) => { this.timers = this.timers.filter((one) => one !== timer); },
      },
    });
    this.client.on('error', (error) => this.did.error.push(error));
  }

  async settle() {
    for (;;) {
      for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
      const due = this.timers.filter((timer) => timer.at <= this.now);
      if (!due.length) return;
      this.timers = this.timers.filter((timer) => !due.includes(timer));
      for (const timer of due) timer.call();
    }
  }

  async advance(ms) {
    const until = this.now + ms;
    for (let turns = 0; ; turns++) {
      assert.ok(turns < 100_000, 'the client never rests');
      const at = Math.min(...this.timers.map((timer) => timer.at));
      if (at > until) break;
      this.now = Math.max(this.now, at);
      await this.settle();
    }
    this.now = until;
    await this.settle();
  }

  token(name) {
    return `${base64({ alg: 'none' })}.${base64(this.script.claims?.[name] ?? { sub: 'alice' })}.${name}`;
  }

  nothing() {
    for (const [kind, list] of Object.entries(this.did)) {
      assert.deepEqual(list.map((one) => one.address ?? one.message ?? one), [], `nobody expected this ${kind}`);
    }
    for (const [name, { sent, closed }] of Object.entries(this.sockets)) {
      assert.deepEqual(sent, [], `nobody expected this on ${name}`);
      assert.deepEqual(closed, [], `nobody expected ${name} to be closed`);
    }
  }

  async step(step) {
    await this.act(step);
    await this.settle();
  }

  async act(step) {
    const [kind] = Object.keys(step);
    switch (kind) {
      case 'turn': return step.turn.forEach((one) => this.app(one));
      case 'app': return this.app(step);
      case 'token': return this.giveToken(step);
      case 'route':
      case 'health': return this.answer(kind, step[kind], step);
      case 'socket': return this.wire(this.sockets[step.socket], step);
      case 'page': return this.happen(step.page);
      case 'advance':
        this.nothing();
        return this.advance(step.advance);
      case 'sleep':
        this.nothing();
        this.now += step.sleep;
        return;
      case 'set':
        this.set += step.set;
        return;
      case 'throttle':
        this.throttle = step.throttle;
        return;
      case 'expect': return this.expect(step);
      default: assert.fail(`no step: ${JSON.stringify(step)}`);
    }
  }

  app(step) {
    const { client } = this;
    const done = (of, promise) => promise.then(() => this.did.done.push({ of }), (error) => this.did.done.push({ of, error: error.code }));
    switch (step.app) {
      case 'connect': return client.connect();
      case 'disconnect':
        this.versions = {};
        return client.disconnect();
      case 'active': return client.active();
      case 'mode': return void done('mode', client.setMode(step.mode));
      case 'text': return void done('text', client.setText(step.text));
      case 'query': return void done('query', client.query(expand(step.users)));
      case 'unwatch': return this.watches[step.as]();
      case 'watch':
        try {
          this.watches[step.as] = client.watch(expand(step.users), (_, changed) => {
            for (const { user, status, version } of changed) {
              assert.ok(version >= (this.versions[user] ?? 0), `${user} goes back from ${this.versions[user]} to ${version}`);
              this.versions[user] = version;
              (this.seen[user] ??= []).push(status);
            }
          });
        } catch (error) {
          this.did.error.push(error);
        }
        return;
      default: assert.fail(`no step: ${JSON.stringify(step)}`);
    }
  }

  giveToken({ token, call }) {
    const at = call ? call - 1 : this.tokens.length - 1;
    const { resolve, reject } = this.tokens[at];
    if (token === 'nothing') resolve(undefined);
    else if (token === 'error') reject(new Error('the site is down'));
    else if (token === 'not allowed') reject(Object.assign(new Error('not allowed: logged out')));
    else resolve(this.token(token));
  }

  answer(kind, what, { detail }) {
    const { resolve, reject } = this.open[kind].pop();
    if (what === 'error') return reject(new TypeError('fetch failed'));
    const status = typeof what === 'number' ? what : 200;
    resolve({ status, ok: status < 300, json: async () => (status < 300 ? { address: what } : { detail }) });
  }

  wire(socket, step) {
    if (step.do === 'open') {
      socket.protocol = step.protocol ?? socket.protocols[0];
      socket.readyState = 1;
      return socket.onopen({});
    }
    const close = (code, reason = '') => {
      if (socket.readyState > 1) return;
      socket.readyState = 3;
      socket.onclose({ code, reason });
    };
    if (step.do === 'refuse') return close(1006);
    if (step.close) return close(step.close, step.reason);
    const text = JSON.stringify(step.say, (_, value) => (typeof value === 'string' && value[0] === '$' ? this.ids[value.slice(1)] : value));
    if (!this.script.unknown) said.check(JSON.parse(text));
    if (socket.readyState === 1) socket.onmessage({ data: text });
  }

  happen(event) {
    const { window, document } = this.page;
    if (event === 'hidden' || event === 'visible') {
      document.visibilityState = event;
      document.dispatch('visibilitychange');
    } else if (event === 'freeze' || event === 'resume') document.dispatch(event);
    else if (event === 'input') window.dispatch('keydown');
    else window.dispatch(event, { persisted: true });
  }

  expect(step) {
    const what = step.expect;
    const take = (list, words) => {
      assert.ok(list.length, `the client did not ${words}; it did ${JSON.stringify(this.did)}`);
      return list.shift();
    };
    if (what === 'nothing') return this.nothing();
    if (what === 'token') return take(this.did.token, 'ask for a token');
    if (what === 'route') return assert.ok(take(this.did.route, 'ask for the route').endsWith(`://route.test/route?userId=${step.user}`));
    if (what === 'health') return assert.equal(take(this.did.health, 'ask for the health'), step.url);
    if (what === 'dial') {
      const socket = take(this.did.dial, 'connect');
      assert.equal(socket.address, step.address);
      assert.deepEqual(socket.protocols, ['online-status.v1.json']);
      this.sockets[step.as] = socket;
    } else if (what === 'message') {
      const message = take(this.sockets[step.on].sent, `send ${JSON.stringify(step.is)}`);
      if (message.token) message.token = message.token.split('.')[2];
      assert.ok(fits(message, step.is), `${JSON.stringify(message)} is not ${JSON.stringify(step.is)}`);
      if (step.id) this.ids[step.id] = message.id;
    } else if (what === 'messages') {
      const { sent } = this.sockets[step.on];
      const other = sent.findIndex(({ type }) => type !== step.type);
      const messages = sent.splice(0, other < 0 ? sent.length : other);
      assert.deepEqual(messages.flatMap(({ users }) => users).sort(), expand(step.users).sort());
      for (const { bytes } of messages) assert.ok(bytes <= (step.most_bytes ?? Infinity), `${bytes} bytes`);
      assert.ok(messages.length <= (step.most ?? Infinity), `${messages.length} messages`);
    } else if (what === 'closed') {
      const code = take(this.sockets[step.on].closed, `close ${step.on}`);
      if (step.code) assert.equal(code, step.code);
    } else if (what === 'state') {
      const { state, reason } = this.client.state;
      assert.equal(state, step.state);
      if ('reason' in step) assert.equal(reason?.code, step.reason);
      if (step.says) assert.ok(reason.message.includes(step.says), reason.message);
    } else if (what === 'error') {
      const error = take(this.did.error, 'tell of an error');
      assert.equal(error.code, step.code, error.message);
    } else if (what === 'done') {
      const done = take(this.did.done, `be done with ${step.of}`);
      assert.deepEqual(done, step.error ? { of: step.of, error: step.error } : { of: step.of });
    } else if (what === 'seen') {
      assert.deepEqual(this.seen[step.user] ?? [], step.is);
      this.seen[step.user] = [];
    } else assert.fail(`no step: ${JSON.stringify(step)}`);
  }
}
