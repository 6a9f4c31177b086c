// A web site with pages and a presence server whose connections a test can look at.
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { build } from 'esbuild';
import { WebSocketServer } from 'ws';

export const dist = (file) => readFileSync(new URL(`../packages/client/dist/${file}`, import.meta.url), 'utf8');

/** One script of these lines, for a page. */
export async function bundle(contents) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: new URL('.', import.meta.url).pathname, loader: 'jsx' },
    bundle: true, write: false, format: 'esm', jsx: 'automatic', define: { 'process.env.NODE_ENV': '"development"' },
  });
  return outputFiles[0].text;
}

export class Site {
  /** Each connection there was: what it sent, and how it ended. */
  connections = [];

  /** `pages`: content by path; `.js` is a script, all else HTML. */
  static async open(pages = {}) {
    const site = new Site();
    site.pages = { '/client.js': dist('index.js'), '/cbor.js': dist('cbor.js'), ...pages };
    site.server = createServer((request, response) => site.#answer(request, response));
    site.sockets = new WebSocketServer({ server: site.server, path: '/socket', handleProtocols: (offered) => (site.refuses ? false : [...offered][0]) });
    site.sockets.on('connection', (socket) => site.#serve(socket));
    await new Promise((resolve) => site.server.listen(0, '127.0.0.1', resolve));
    site.port = site.server.address().port;
    site.url = `http://127.0.0.1:${site.port}`;
    return site;
  }

  #answer(request, response) {
    const { pathname } = new URL(request.url, this.url);
    if (pathname === '/route') {
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify({ address: `ws://127.0.0.1:${this.port}/socket` }));
    }
    if (pathname === '/token') return response.end(this.token());
    const page = this.pages[pathname];
    response.statusCode = page === undefined ? 404 : 200;
    response.setHeader('content-type', pathname.endsWith('.js') ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(page ?? '');
  }

  token(user = 'alice') {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    return `${part({ alg: 'none' })}.${part({ sub: user })}.x`;
  }

  #serve(socket) {
    const connection = { socket, heard: [], code: undefined, of: (type) => connection.heard.filter((message) => message.type === type) };
    this.connections.push(connection);
    const say = (message) => socket.send(JSON.stringify(message));
    socket.on('close', (code) => { connection.code = code; });
    socket.on('message', (data) => {
      const message = JSON.parse(data);
      const { type, id, users = [] } = message;
      connection.heard.push(message);
      if (type === 'auth') say({ type: 'welcome', user: 'alice', session: 's1', node: 'n1', heartbeat: 25, expires: Date.now() + 3_600_000, mode: 'auto' });
      else if (type === 'ping') say({ type: 'pong', id });
      else if (type === 'watch') say({ type: 'snapshot', id, users: users.map((user) => ({ user, status: 'online', since: 1, devices: 1, version: 7 })) });
      else say({ type: 'ok', id });
    });
  }

  get open() {
    return this.connections.filter(({ code }) => code === undefined);
  }

  close() {
    this.sockets.clients.forEach((socket) => socket.terminate());
    this.server.closeAllConnections();
    this.server.close();
  }
}

/** Waits until it is so. */
export async function until(what, look, patience = 20_000) {
  for (const deadline = Date.now() + patience; ; ) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
