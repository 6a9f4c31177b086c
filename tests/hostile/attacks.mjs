// The clients that attack: each begins with an address and goes on until it is stopped, with so many
// connections at a time. It owns what they send; who looks at the good sessions meanwhile is run.mjs.
import crypto from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';

const SECRET = 'online-status-development-secret-change-me';
const b64 = (value) => Buffer.from(value).toString('base64url');
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });

/** A token, good unless another secret is given. */
export function token(user, { secret = SECRET, ...claims } = {}) {
  const head = b64(JSON.stringify({ alg: 'HS256', typ: 'JWT' }));
  const body = b64(JSON.stringify({ sub: user, exp: 4102444800, ...claims }));
  return `${head}.${body}.${crypto.createHmac('sha256', secret).update(`${head}.${body}`).digest('base64url')}`;
}

export const upgrade = (jwt) => [
  'GET /socket HTTP/1.1', 'Host: x', 'Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', ...(jwt ? [`Authorization: Bearer ${jwt}`] : []), '', '',
].join('\r\n');

/** A client's frame: the first byte, the payload, and the length that it says it has. */
function frame(first, payload, length = payload.length) {
  const header = length < 126 ? Buffer.from([first, 0x80 | length]) : Buffer.alloc(length < 65536 ? 4 : 10);
  if (length >= 126) {
    header[0] = first;
    header[1] = 0x80 | (length < 65536 ? 126 : 127);
    if (length < 65536) header.writeUInt16BE(length, 2); else header.writeBigUInt64BE(BigInt(length), 2);
  }
  return Buffer.concat([header, Buffer.alloc(4), payload]);
}
const text = (message) => frame(0x81, Buffer.from(JSON.stringify(message)));

/** What the clients of an attack share: how many have begun, and whether they have to stop. */
class Attack {
  constructor(port) {
    this.port = port;
    this.begun = 0;
    this.stopped = false;
    this.sockets = new Set();
  }

  stop() {
    this.stopped = true;
    for (const socket of this.sockets) socket.destroy();
  }

  /** An open connection; null when it could not be had. */
  async open(secure = false) {
    this.begun += 1;
    const options = { port: this.port, host: '127.0.0.1', rejectUnauthorized: false };
    const socket = secure ? tls.connect(options) : net.connect(options);
    this.sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.sockets.delete(socket));
    const done = await new Promise((resolve) => {
      socket.once(secure ? 'secureConnect' : 'connect', () => resolve(true));
      socket.once('close', () => resolve(false));
    });
    return done ? socket : null;
  }

  /** A session of that user. */
  async session(user) {
    const socket = await this.open();
    if (!socket) return null;
    socket.write(upgrade(token(user)));
    const answered = await new Promise((resolve) => {
      socket.once('data', () => resolve(true));
      socket.once('close', () => resolve(false));
    });
    if (!answered) return null;
    socket.resume();
    return socket;
  }

  /** So many clients, each of which does `once` again and again. */
  crowd(count, once) {
    const client = async (n) => {
      while (!this.stopped) {
        await once(n);
        // What fails at once must not keep the others from their turn.
        await sleep(0);
      }
    };
    for (let n = 0; n < count; n += 1) client(n);
  }

  /** Until the other side has ended the connection, or the attack is over. */
  ended(socket) {
    return new Promise((done) => {
      if (socket.destroyed) done();
      socket.once('close', done);
      socket.once('end', () => { socket.destroy(); });
    });
  }

  /** Sends a piece every so many ms until the connection has ended. */
  async drip(socket, pieces, every) {
    for (const piece of pieces) {
      if (socket.destroyed || this.stopped) return;
      socket.write(piece);
      await sleep(every);
    }
    await this.ended(socket);
  }

  /** Sends the bytes as fast as they are taken until the connection has ended. */
  async flood(socket, bytes) {
    while (!socket.destroyed && !this.stopped) {
      if (!socket.write(bytes)) {
        await new Promise((done) => { socket.once('drain', done); socket.once('close', done); });
      }
      await sleep(1);
    }
  }
}

const names = (count) => Array.from({ length: count }, (_, n) => `nobody-${n}`);

/** Every attack: its name and what its clients do. */
export const ATTACKS = {
  'slowloris on heads, 400 connections': (it) => it.crowd(400, async () => {
    const socket = await it.open();
    if (socket) { socket.resume(); await it.drip(socket, upgrade('').split(''), 200); }
  }),
  'slowloris on TLS, 400 connections': (it) => it.crowd(400, async () => {
    const socket = await it.open();
    if (socket) { socket.resume(); await it.drip(socket, ['\x16', '\x03', '\x01', '\x02', '\x00', '\x01'], 500); }
  }),
  'TLS handshakes as fast as 20 clients can': (it) => it.crowd(20, async () => {
    const socket = await it.open(true);
    if (socket) socket.destroy();
  }),
  'slowloris on tokens, 400 connections': (it) => it.crowd(400, async () => {
    const socket = await it.open();
    if (!socket) return;
    socket.resume();
    socket.write(upgrade(''));
    await it.drip(socket, [...text({ type: 'auth', token: token('slow') })].map((byte) => Buffer.from([byte])), 200);
  }),
  'slowloris on frames, 400 sessions': (it) => it.crowd(400, async (n) => {
    const socket = await it.session(`slow-${n}`);
    if (!socket) return;
    socket.write(frame(0x81, Buffer.from(' '), 16000));
    await it.drip(socket, Array(1e6).fill(' '), 200);
  }),
  'readers that stop, 200 sessions that watch 1,000 users and ask for them': (it) => it.crowd(200, async (n) => {
    const socket = await it.session(`deaf-${n}`);
    if (!socket) return;
    socket.pause();
    socket.write(text({ type: 'watch', users: names(1000) }));
    await it.drip(socket, Array(1e6).fill(text({ type: 'query', users: names(1000) })), 300);
  }),
  'connections and nothing else, 5,000': (it) => it.crowd(500, async () => {
    const sockets = await Promise.all(Array.from({ length: 10 }, () => it.open()));
    for (const socket of sockets) socket?.resume();
    await Promise.all(sockets.map((socket) => socket && it.ended(socket)));
  }),
  'connect and reset as fast as 20 clients can': (it) => it.crowd(20, async () => {
    const socket = await it.open();
    if (!socket) return;
    socket.write(upgrade(''));
    socket.resetAndDestroy();
  }),
  'sessions that open and reset as fast as 20 clients can': (it) => it.crowd(20, async (n) => {
    const socket = await it.session(`reset-${n}`);
    socket?.resetAndDestroy();
  }),
  'sessions of 20 users that come and go, each with 20 watchers': (it) => {
    it.crowd(20, async (n) => {
      const socket = await it.session(`watcher-${n}`);
      if (!socket) return;
      socket.write(text({ type: 'watch', users: Array.from({ length: 20 }, (_, k) => `flaps-${k}`) }));
      await it.ended(socket);
    });
    it.crowd(20, async (n) => {
      const socket = await it.session(`flaps-${n}`);
      if (!socket) return;
      socket.write(text({ type: 'bye' }));
      await it.ended(socket);
    });
  },
  'a status that flips 90 times a second, of 20 users with 20 watchers each': (it) => {
    const users = Array.from({ length: 20 }, (_, k) => `flips-${k}`);
    it.crowd(20, async (n) => {
      const socket = await it.session(`watcher-${n}`);
      if (!socket) return;
      socket.write(text({ type: 'watch', users }));
      await it.ended(socket);
    });
    it.crowd(20, async (n) => {
      const socket = await it.session(users[n]);
      if (!socket) return;
      const flips = ['away', 'online'].map((status) => text({ type: 'status', status }));
      for (let k = 0; !socket.destroyed && !it.stopped; k += 1) {
        socket.write(flips[k % 2]);
        await sleep(11);
      }
    });
  },
  'garbage from 20 clients': (it) => it.crowd(20, async () => {
    const socket = await it.open();
    if (!socket) return;
    socket.resume();
    socket.write(crypto.randomBytes(4096));
    await it.ended(socket);
  }),
  'garbage in frames, 20 clients': (it) => it.crowd(20, async (n) => {
    const socket = await it.session(`garbage-${n}`);
    if (!socket) return;
    socket.write(crypto.randomBytes(4096));
    await it.ended(socket);
  }),
  'frames that are too long, 20 clients': (it) => it.crowd(20, async (n) => {
    const socket = await it.session(`long-${n}`);
    if (!socket) return;
    socket.write(frame(0x81, Buffer.alloc(60000, 32), 16e6));
    await it.ended(socket);
  }),
  'bad tokens from 20 clients': (it) => it.crowd(20, async () => {
    const socket = await it.open();
    if (!socket) return;
    socket.resume();
    socket.write(upgrade(token('eve', { secret: 'another secret of at least 32 bytes' })));
    await it.ended(socket);
  }),
  'pings as fast as 20 sessions can': (it) => it.crowd(20, async (n) => {
    const socket = await it.session(`pings-${n}`);
    if (socket) await it.flood(socket, frame(0x89, Buffer.alloc(125)));
  }),
  'messages that are none as fast as 20 sessions can': (it) => it.crowd(20, async (n) => {
    const socket = await it.session(`json-${n}`);
    if (socket) await it.flood(socket, frame(0x81, Buffer.from(`{"type":"ping","x":${'['.repeat(5000)}`)));
  }),
  'queries of 1,000 users each, as many as 10 sessions may send': (it) => it.crowd(10, async (n) => {
    const socket = await it.session(`asks-${n}`);
    if (socket) await it.drip(socket, Array(1e6).fill(text({ type: 'query', users: names(1000) })), 60);
  }),
  'HTTP requests without a token from 20 clients': (it) => it.crowd(20, async () => {
    const socket = await it.open();
    if (!socket) return;
    socket.resume();
    await it.flood(socket, 'GET /status?userId=bob HTTP/1.1\r\nHost: x\r\n\r\n');
  }),
};

/** Starts the attack of that name. */
export function start(name, port) {
  const attack = new Attack(port);
  ATTACKS[name](attack);
  return attack;
}
