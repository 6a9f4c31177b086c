#!/usr/bin/env bash
# Chromium 156.0.8078.108 (Debian 12), driven by playwright-core 1.65.1; server: ws 8.23.0.
#
# A page that has an open WebSocket goes into the back-forward cache when the user follows a link. It runs no
# script there, yet the browser goes on answering the server's pings for it: to the server the user is still
# there. When the user comes back the page gets close 1006, without the server having closed.
# Playwright turns that cache off by itself; a test that does not turn it on again sees a closed socket.
#
# Seen:
#   pongs while the page was kept aside: 3 of 3
#   closed for the server meanwhile: no
#   the page on return: same document, close code 1006
#   with Playwright's own arguments: closed for the server at once, with 1001
# Exits with 1 when one of these lines is another.
set -eu
expected=$(sed -n "s/^#   //p" "$0")
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT
echo '{"private":true,"type":"module"}' >package.json
npm install --no-audit --no-fund --silent playwright-core@1.65.1 ws@8.23.0
cat >run.mjs <<'JS'
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const page = `<script>addEventListener('pageshow', (event) => { window.kept = event.persisted; });
  const socket = new WebSocket('ws://' + location.host); socket.onclose = ({ code }) => { window.code = code; };</script>`;
const server = createServer((request, response) => {
  response.setHeader('content-type', 'text/html');
  response.end(request.url === '/' ? page : 'another page');
});
const sockets = new WebSocketServer({ server });
let socket, pongs, closed;
sockets.on('connection', (made) => {
  [socket, pongs, closed] = [made, 0, undefined];
  made.on('pong', () => { pongs += 1; });
  made.on('close', (code) => { closed = code; });
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}/`;
const lines = [];

async function leave(ignoreDefaultArgs) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', ignoreDefaultArgs, args: ['--headless', '--no-sandbox'] });
  const tab = await browser.newPage();
  await tab.goto(url);
  while (socket?.readyState !== 1) await pause(20);
  await tab.goto(`${url}next`);
  await pause(500);
  return { browser, tab };
}

const { browser, tab } = await leave(['--disable-back-forward-cache']);
for (let n = 0; n < 3; n++) {
  if (closed === undefined) socket.ping();
  await pause(300);
}
lines.push(`pongs while the page was kept aside: ${pongs} of 3`, `closed for the server meanwhile: ${closed === undefined ? 'no' : closed}`);
await tab.evaluate(() => history.back());
await pause(1500);
lines.push(`the page on return: ${(await tab.evaluate(() => window.kept)) ? 'same' : 'another'} document, close code ${await tab.evaluate(() => window.code)}`);
await browser.close();
socket = undefined;
const plain = await leave([]);
lines.push(`with Playwright's own arguments: closed for the server at once, with ${closed}`);
await plain.browser.close();
server.closeAllConnections();
server.close();
sockets.close();
console.log(lines.join('\n'));
JS
node run.mjs | tee seen
[ "$(cat seen)" = "$expected" ]
