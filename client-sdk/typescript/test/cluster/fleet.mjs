// Many clients in this process, each a user of a real cluster that watches others; and what their
// application has seen: who was shown offline, what went back, what was missed, how long there was no connection.
import { createHmac } from 'node:crypto';
import { connect } from '@online-status/client';
import { WebSocket as Node } from 'ws';
import { until } from '../site.mjs';

export class Plain extends Node {
  constructor(address, protocols) {
    super(address, protocols, { perMessageDeflate: false });
  }
}

/** A token of the user (HS256), good for so many seconds. */
export function token(secret, user, ttl = 3600, claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + ttl, ...claims })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

const WATCHED = 5;

export class Fleet {
  clients = [];
  /** What must not be: a user shown offline, a version that fell, a client that failed. */
  wrong = [];
  /** Times without a connection, ms. */
  gaps = [];
  texts = new Map();
  changes = 0;

  constructor(environment, sessions, options = {}) {
    this.route = environment.COORDINATOR_URL;
    this.secret = environment.JWT_SECRET;
    this.users = Array.from({ length: sessions }, (_, n) => `${options.prefix ?? 'user'}-${n}`);
    this.options = options.client ?? {};
    this.ttl = options.ttl ?? 3600;
  }

  async begin() {
    this.clients = this.users.map((user, n) => this.#client(user, n));
    await Promise.all(this.clients.map((client) => client.ready()));
    await until('everybody sees everybody online', () => this.clients.every((client) => client.watched.every((user) => client.get(user)?.status === 'online')), 60_000);
    this.judging = true;
    this.gaps = [];
  }

  #client(user, n) {
    const client = connect({ route: this.route, token: () => token(this.secret, user, this.ttl), WebSocket: Plain, ...this.options });
    client.watched = Array.from({ length: Math.min(WATCHED, this.users.length - 1) }, (_, step) => this.users[(n + 1 + step * 7) % this.users.length]).filter((one) => one !== user);
    const versions = new Map();
    client.watch(client.watched, (_, changed) => {
      for (const record of changed) {
        if (record.version < (versions.get(record.user) ?? 0)) this.wrong.push(`${user} saw ${record.user} go back to ${record.version}`);
        versions.set(record.user, record.version);
        if (this.judging && record.status === 'offline') this.wrong.push(`${user} saw ${record.user} offline`);
      }
    });
    let since = 0;
    client.on('state', ({ state, reason }) => {
      if (state === 'failed') this.wrong.push(`${user} failed: ${reason.message}`);
      if (state === 'connected' && since) this.gaps.push(Date.now() - since);
      if (state === 'connected') since = 0;
      else since ||= Date.now();
    });
    client.on('error', (error) => this.errors?.(user, error));
    return client;
  }

  /** Changes of texts, so many a second, until `end` is called. */
  change(rate) {
    let ended = false;
    const loop = (async () => {
      while (!ended) {
        const n = Math.floor(Math.random() * this.clients.length);
        const text = `text ${++this.changes}`;
        this.texts.set(this.users[n], text);
        this.clients[n].setText(text).catch((error) => this.wrong.push(`${this.users[n]}: ${error.message}`));
        await new Promise((resolve) => setTimeout(resolve, 1000 / rate));
      }
    })();
    return async () => {
      ended = true;
      await loop;
    };
  }

  /** Waits until every client is connected and shows the last state of all that it watches. */
  async settled(patience = 60_000) {
    const missing = () => this.clients.flatMap((client, n) => [
      ...(client.state.state === 'connected' ? [] : [`${this.users[n]} is ${client.state.state}: ${client.state.reason?.message}`]),
      ...client.watched.filter((user) => client.get(user)?.status !== 'online' || (client.get(user).text ?? '') !== (this.texts.get(user) ?? ''))
        .map((user) => `${this.users[n]} shows ${JSON.stringify(client.get(user))}, the last text is ${this.texts.get(user)}`),
    ]);
    try {
      await until('last states', () => missing().length === 0, patience);
    } catch {
      this.wrong.push(...missing());
    }
  }

  end() {
    this.judging = false;
    for (const client of this.clients) client.disconnect();
  }

  /** In a line: how many were without a connection and for how long. */
  report() {
    const gaps = this.gaps.sort((a, b) => a - b);
    const at = (share) => gaps[Math.min(gaps.length - 1, Math.floor(share * gaps.length))] ?? 0;
    return { changes: this.changes, gaps: gaps.length, p50: at(0.5), p99: at(0.99), longest: gaps.at(-1) ?? 0, wrong: this.wrong.length };
  }
}
