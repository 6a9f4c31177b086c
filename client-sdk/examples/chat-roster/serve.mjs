#!/usr/bin/env node
// Serves the roster at http://127.0.0.1:17100/ and gives everybody who asks a token: a stand-in for a site with a
// login. Without COORDINATOR_URL and JWT_SECRET in its environment it starts the development cluster.
import { execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

const USERS = ['alice', 'bob', 'carol', 'dave', 'erin'];
const script = fileURLToPath(new URL('../../../scripts/dev-cluster', import.meta.url));
const here = (name) => readFileSync(new URL(name, import.meta.url));

let { COORDINATOR_URL: route, JWT_SECRET: secret, PORT: port = '17100' } = process.env;
if (!route || !secret) {
  execFileSync(script, ['up'], { stdio: 'inherit' });
  const lines = execFileSync(script, ['env'], { encoding: 'utf8' }).trim().split('\n');
  ({ COORDINATOR_URL: route, JWT_SECRET: secret } = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)])));
}

/** A JWT (HS256) of the user, good for ten minutes. */
function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + 600 })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

const pages = {
  '/': ['text/html; charset=utf-8', () => here('index.html')],
  '/roster.js': ['text/javascript', () => here('roster.js')],
  '/client.js': ['text/javascript', () => here('../../typescript/built/client.js')],
  '/contacts': ['application/json', () => JSON.stringify({ route, users: USERS })],
};

const server = createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://here');
  if (pathname === '/token') {
    const user = searchParams.get('user') ?? '';
    response.statusCode = USERS.includes(user) ? 200 : 403;
    response.end(USERS.includes(user) ? token(user) : `nobody here is called ${user}: log in as ${USERS.join(', ')}`);
    return;
  }
  const [type, content] = pages[pathname] ?? [];
  response.statusCode = type ? 200 : 404;
  if (type) response.setHeader('content-type', type);
  response.end(content?.() ?? 'there is nothing here');
});
server.listen(Number(port), '127.0.0.1', () => console.log(`The roster: http://127.0.0.1:${server.address().port}/ (log in as ${USERS.join(', ')}, each in a window of its own)`));
