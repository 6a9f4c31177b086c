// Real proxies and edges around a test: each is started with its file of packaging/proxies, in which
// addresses, certificates and time-outs stand as the test has them. It owns the processes; what must be
// true of them is the tests'.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Socket } from '../dev-cluster/socket.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const program = process.env.EDGE_BIN
  ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release/online-status-edge');
const SECRET = 'a secret of the tests, long enough for HS256';
const PATIENCE = 20000;

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// What `look` finds, once it finds something.
export async function until(what, look) {
  let why = '';
  for (const end = Date.now() + PATIENCE; Date.now() < end; await sleep(50)) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      why = `: ${error.message}`;
    }
  }
  throw new Error(`never: ${what}${why}`);
}

async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

export function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 3600 };
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

// A folder with a certificate for localhost and the edges' names, for all tests of a file.
export class Folder {
  constructor() {
    this.path = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-proxies-'));
    const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
      '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,DNS:*.chat.example',
      '-keyout', this.file('key.pem'), '-out', this.file('chain.pem')];
    execFileSync('openssl', words, { stdio: 'ignore' });
    const both = ['chain.pem', 'key.pem'].map((name) => fs.readFileSync(this.file(name)));
    fs.writeFileSync(this.file('both.pem'), Buffer.concat(both));
    // nginx's workers and Caddy may be other users.
    for (const name of ['', 'chain.pem', 'key.pem', 'both.pem']) fs.chmodSync(this.file(name), name ? 0o644 : 0o755);
  }

  file(name) { return path.join(this.path, name); }

  remove() { fs.rmSync(this.path, { recursive: true, force: true }); }
}

class Process {
  constructor(words, options = {}) {
    this.said = '';
    this.child = spawn(words[0], words.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on('data', (data) => (this.said += data));
    this.ended = new Promise((done) => this.child.on('close', done));
  }

  running() {
    const { exitCode, signalCode } = this.child;
    assert.ok(exitCode === null && signalCode === null, `${this.child.spawnfile} ended: ${this.said}`);
  }

  async stop() {
    this.child.kill(this.last ?? 'SIGKILL');
    await this.ended;
  }
}

export class Edge extends Process {
  // A standalone edge with these flags, once it is ready.
  static async start(...flags) {
    const [port, admin] = [await freePort(), await freePort()];
    const { JWT_SECRET, ...env } = process.env;
    const edge = new Edge([program, 'standalone', '--listen', `127.0.0.1:${port}`, '--auth-secret', SECRET,
      '--server-admin-listen', `127.0.0.1:${admin}`, '--server-cores', '1', '--server-pin', 'false', ...flags], { env });
    Object.assign(edge, { port, admin });
    await until('the edge is ready', async () => {
      edge.running();
      return (await edge.ask('/readyz')).ok;
    });
    return edge;
  }

  ask(what) { return fetch(`http://127.0.0.1:${this.admin}${what}`); }

  // A metric, summed over its labels.
  async metric(name) {
    const page = await (await this.ask('/metrics')).text();
    return page.split('\n').filter((line) => line.match(`^online_status_${name}[ {]`))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }
}

// A file of packaging/proxies with other texts in it, each of which it must have.
function rendered(name, changes) {
  let text = fs.readFileSync(path.join(root, 'packaging/proxies', name), 'utf8');
  for (const [from, to] of changes) {
    const other = text.replaceAll(from, to);
    assert.notEqual(other, text, `${name} has no ${from}`);
    text = other;
  }
  return text;
}

// A proxy before one or two edges; `changes` are more replacements in its file.
export class Proxy extends Process {
  static async start(kind, folder, edges, changes = []) {
    const port = await freePort();
    const [one, two] = [edges[0], edges.at(-1)].map((edge) => `127.0.0.1:${edge.port}`);
    const file = folder.file(`${kind}-${port}`);
    const addresses = [['10.0.0.11:8080', one], ['10.0.0.12:8080', two], ...changes];
    const write = (name, more) => fs.writeFileSync(file, rendered(name, [...addresses, ...more]));
    const proxy = kinds[kind](write, { file, port, folder });
    Object.assign(proxy, { port, kind });
    await until(`${kind} listens`, () => {
      proxy.running();
      return new Promise((done) => {
        const socket = net.connect(port, '127.0.0.1', () => { socket.destroy(); done(true); });
        socket.on('error', () => done(false));
      });
    });
    return proxy;
  }

  // What every request to the proxy has, by HTTP/1.1; `name` is whom it is for.
  #to(what, name, from, headers) {
    return {
      host: '127.0.0.1', port: this.port, path: what, localAddress: from, servername: name, agent: false, timeout: PATIENCE,
      rejectUnauthorized: false, ALPNProtocols: ['http/1.1'], headers: { host: `${name}:${this.port}`, ...headers },
    };
  }

  // A plain request by HTTP/1.1: status and body.
  get(what, { from = '127.0.0.1', headers = {}, name = 'localhost' } = {}) {
    return new Promise((done, failed) => {
      const request = https.get(this.#to(what, name, from, headers), (response) => {
        let body = '';
        response.on('data', (data) => (body += data));
        response.on('end', () => done({ status: response.statusCode, body }));
      });
      request.on('timeout', () => request.destroy(new Error(`${what} is not answered`)));
      request.on('error', failed);
    });
  }

  // A user's WebSocket by HTTP/1.1, or the status that it is refused with.
  open(user, { from = '127.0.0.1', headers = {} } = {}) {
    return new Promise((done, failed) => {
      const request = https.request(this.#to('/socket', 'localhost', from, {
        connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13',
        'sec-websocket-key': randomBytes(16).toString('base64'), authorization: `Bearer ${token(user)}`, ...headers,
      }));
      request.on('timeout', () => request.destroy(new Error('the upgrade is not answered')));
      request.on('error', failed);
      request.on('response', (response) => { response.resume(); done(response.statusCode); });
      request.on('upgrade', (_, stream, head) => {
        stream.setTimeout(0);
        done(new Socket(stream, head));
      });
      request.end();
    });
  }

  // An HTTP/2 connection, and whether the proxy takes WebSockets over it (RFC 8441).
  async http2() {
    const session = http2.connect(`https://127.0.0.1:${this.port}`, { rejectUnauthorized: false, servername: 'localhost' });
    session.on('error', () => {});
    const settings = await new Promise((done, failed) => {
      session.once('remoteSettings', done);
      session.once('error', failed);
    });
    return { session, websockets: settings.enableConnectProtocol === true };
  }
}

// Sends a request on a stream of an HTTP/2 connection; the stream, once it is answered, and the answer.
export function stream2(session, headers, options) {
  return new Promise((done, failed) => {
    const stream = session.request(headers, options);
    stream.on('response', (response) => done({ stream, status: response[':status'] }));
    stream.on('error', failed);
  });
}

// A user's WebSocket over HTTP/2.
export async function open2(session, authority, user) {
  const { stream, status } = await stream2(session, {
    ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'https', ':path': '/socket', ':authority': authority,
    'sec-websocket-version': '13', authorization: `Bearer ${token(user)}`,
  }, { endStream: false });
  assert.equal(status, 200);
  return new Socket(stream, Buffer.alloc(0));
}

const kinds = {
  nginx(write, { file, port, folder }) {
    write('nginx.conf', [['listen 443 ', `listen 127.0.0.1:${port} `],
      ['/etc/ssl/online-status/chain.pem', folder.file('chain.pem')],
      ['/etc/ssl/online-status/key.pem', folder.file('key.pem')]]);
    const place = folder.file(`nginx-${port}.d`);
    fs.mkdirSync(place, { mode: 0o755 });
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
      .map((name) => `${name}_temp_path ${place}/${name};`);
    fs.writeFileSync(`${file}.main`, `daemon off; worker_processes 1; pid ${place}/pid; error_log stderr warn;
      events {} http { access_log off; ${temporary.join(' ')} include ${file}; }`);
    const proxy = new Proxy(['nginx', '-e', 'stderr', '-p', place, '-c', `${file}.main`]);
    // It ends its workers only when it is told to.
    proxy.last = 'SIGTERM';
    return proxy;
  },
  haproxy(write, { file, port, folder }) {
    write('haproxy.cfg', [['bind :443 ', `bind 127.0.0.1:${port} `],
      ['/etc/haproxy/online-status.pem', folder.file('both.pem')]]);
    return new Proxy(['haproxy', '-db', '-f', file]);
  },
  'haproxy-tcp'(write, { file, port }) {
    write('haproxy-tcp.cfg', [['bind :443', `bind 127.0.0.1:${port}`]]);
    return new Proxy(['haproxy', '-db', '-f', file]);
  },
  caddy(write, { file, port, folder }) {
    const global = '{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n}\n';
    write('Caddyfile', [['/etc/caddy/online-status.pem', folder.file('chain.pem')],
      ['/etc/caddy/online-status-key.pem', folder.file('key.pem')],
      ['.chat.example {', `.chat.example:${port} {`], ['\nchat.example {', `\n${global}\nlocalhost:${port} {`]]);
    const env = { ...process.env, HOME: folder.path, XDG_DATA_HOME: folder.path, XDG_CONFIG_HOME: folder.path };
    return new Proxy(['caddy', 'run', '--config', file, '--adapter', 'caddyfile'], { env });
  },
};
