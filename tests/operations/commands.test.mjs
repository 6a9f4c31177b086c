// The blocks of README.md and docs/: commands are run as they are written, settings and messages are read by the
// programs. Every block is either run here or named below with the reason why not, so that a new one asks for a
// decision. Loads are made small, so that a busy machine passes, and a server goes on in the background; nothing else
// is changed. Commands run in a network of their own, where the ports of the pages are free and their names this host.
import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const target = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release');
const PATIENCE = 120000;
const SECRET = 'a secret of the tests, long enough for HS256';

const BUILDS = 'it compiles, and what it starts is run by scripts/test or by hand';
const BY_HAND = 'minutes of load, by hand; the page has what came of it';
const SHOWN = 'nothing to run: it is to be looked at';

// Blocks that are not run here, by their page and first line.
const elsewhere = {
  'README.md': {
    'flowchart LR': SHOWN,
    'scripts/run': 'it builds and serves: tests/operations/setup.test.mjs; here the edge that it ends in is started',
    'scripts/dev-cluster up': 'tests/dev-cluster, and the same load by hand: docs/benchmarks.md',
    'scripts/test': 'this is a part of it',
    'cargo run --release -p online-status-bench -- presence --sessions 10000 --duration 10': 'docs/start.md has the same with the program',
  },
  'docs/start.md': {
    'scripts/run': 'as in README.md',
    'kubectl kustomize packaging/kubernetes': 'tests/operations/kubernetes.test.mjs, where kubectl is installed',
  },
  'docs/architecture.md': {
    'client ══ wss /socket, JWT ══▶ any core: TLS, HTTP, upgrade, token': SHOWN,
    'coordinator (leader) ── map, from leases ──▶ Redis ◀── lease, map, records behind epochs ── every edge': SHOWN,
  },
  'docs/benchmarks.md': {
    'cargo run --release -p online-status-edge -- standalone &': BUILDS,
    '[a] old, 3 run(s)': 'bench/src/diff.rs has the form in its tests',
    'bench/peers/build': 'it builds other servers; bench/peers and docs/compare.html',
    'export BENCH_WORKER_TOKEN=…': 'several machines; bench/src/remote has its tests',
    'online-status-bench fleet --sessions 100000 --watch 2 --hold 60': BY_HAND,
    'ONLINE_STATUS_PRESENCE_HEARTBEAT=60s online-status-bench fleet --sessions 1000000 --watch 2 --hold 60 --connect-rate 2500 --rate 500 --duration 20': BY_HAND,
  },
  'docs/capacity.md': { 'cargo run --release -p online-status-presence --example fleet -- 100': BUILDS },
  'docs/cluster.md': { 'claim                  loaded': SHOWN },
  'docs/compatibility.md': { 'node tests/upgrade/run.mjs REVISION': 'it builds another revision; by hand' },
  'docs/deployment.md': {
    'scripts/package': 'by hand, for tests/packages',
    'apt-get install ./online-status-edge_*.deb ./online-status-tuning_*.deb': 'tests/packages/debian, by hand, as root',
    'cp .env.example .env': 'tests/operations/files.test.mjs has docker-compose check the file; it was run with podman',
    'the kernel does not give an io_uring to this process: Function not implemented (os error 38). Linux 6.1 or newer is':
      'tests/operations/files.test.mjs, under seccomp',
    'podman run --read-only --cap-drop ALL --security-opt no-new-privileges --security-opt seccomp=docker/seccomp-io_uring.json -e JWT_SECRET=… -p 8080:8080 online-status-edge standalone':
      'an image, by hand',
    'kubectl create secret generic online-status --from-literal=JWT_SECRET="$(openssl rand -base64 32)" --from-literal=REDIS_URL=redis://redis:6379 --from-literal=ONLINE_STATUS_CLUSTER_LINK_KEY="$(openssl rand -base64 32)"':
      'tests/kubernetes/apply, by hand',
    'online-status-tuning check --sessions 100000': 'it changes the host; tuning/tests has it in trees of files and a network namespace',
  },
  'docs/faults.md': { 'cargo build --release --workspace': BUILDS },
  'docs/guide.md': { 'cargo test --release -p online-status-protocol -p online-status-presence': BUILDS },
  'docs/operations.md': {
    'scripts/dev-cluster up': 'tests/dev-cluster',
    'ONLINE_STATUS_PRESENCE_GRACE=5s scripts/dev-cluster up': 'tests/dev-cluster',
    'online-status-coordinator top --url http://coordinator:8090': 'it needs a terminal; console/src/top.rs has its tests',
    'TIME (UTC)       AFTER ms  NODE/CORE             EPOCH           VERSION  STATUS   STEP': 'console/src/trace.rs has the form in its tests',
  },
  'docs/performance.md': {
    'scripts/dev-cluster up --edges 3': BY_HAND,
    'online-status-bench presence --coordinator $COORDINATOR_URLS --sessions 9000 --watch 10 --rate 600 --duration 25': BY_HAND,
    'online-status-bench storm --url wss://127.0.0.1:8080/socket --ca ca.pem --sessions 3000 --watch 0 --connect-rate 600 --duration 8':
      'tests/operations/bench.test.mjs has a storm over TLS',
    'cargo test --release --workspace --bin online-status-edge -- --ignored --nocapture what_handshakes_cost': BUILDS,
  },
  'docs/security.md': { 'PROPTEST_CASES=2000000 cargo test --release -p online-status-fuzz': BUILDS },
  'docs/simulation.md': { 'cargo test --release -p online-status-simulation': BUILDS },
};

/** The blocks of a page: language, text without the page's indent and with lines joined, and its first line. */
function blocks(page) {
  const text = fs.readFileSync(path.join(root, page), 'utf8');
  return [...text.matchAll(/^( *)```(\w*)\n(.*?)^ *```/gms)].map(([, indent, language, content]) => {
    const block = content.replaceAll(new RegExp(`^${indent}`, 'gm'), '').replaceAll(/ *\\\n\s*/g, ' ');
    const first = block.trimStart().split('\n')[0].replace(/\s+# .*$/, '');
    return { page, language, block, first, name: `${page}: ${first}` };
  });
}

const docs = fs.readdirSync(path.join(root, 'docs')).filter((file) => file.endsWith('.md'));
const all = ['README.md', ...docs.map((file) => `docs/${file}`)].flatMap(blocks);
const isElsewhere = ({ page, first }) => first in (elsewhere[page] ?? {});
const isMessages = ({ block }) => /^[→←] \{/m.test(block);
const here = all.filter((block) => !isElsewhere(block));
const of = (language) => here.filter((block) => block.language === language);

// A block as it is run: what a reader fills in, small loads, and a server goes on in the background.
function small(block, folder) {
  const served = (_, line) => {
    const [, admin] = line.match(/--server-admin-listen (\S+)/) ?? [, '127.0.0.1:8081'];
    const url = line.includes('coordinator run') ? 'http://127.0.0.1:8090/healthz' : `http://${admin}/readyz`;
    return `${line.replace(/ &$/, '')} >/dev/null 2>>said &\nEDGE=$! EDGE_PID=$!\nready ${url}`;
  };
  return block
    .replaceAll('online-status-edge run … ', 'online-status-edge run --server-admin-listen 10.0.0.11:8081 ')
    .replaceAll('LINK_KEY=…', `LINK_KEY='${[...SECRET].reverse().join('')}'`)
    .replaceAll('=…', `='${SECRET}'`)
    // Whatever this machine's clock says, the token of the test is issued later.
    .replaceAll('"before":1795480000000', '"before":1000000000000')
    .replaceAll(/--(sessions|rate) (\d+)/g, (_, what, number) => `--${what} ${Math.min(number, what === 'rate' ? 50 : 100)}`)
    .replaceAll(/--duration \d+/g, '--duration 1')
    .replaceAll(/(bench presence)(?! --sessions)/g, '$1 --sessions 100 --rate 50 --duration 1')
    .replaceAll('/var/lib/online-status', path.join(folder, 'data'))
    // What it says belongs to the run's log as well.
    .replaceAll(/ >(\w+\.json)$/gm, ' | tee $1')
    // What a host lacks is no error of the command.
    .replaceAll(/^(online-status-tuning (?:check|capacity) .*)$/gm, '$1 || [ $? = 1 ]')
    // It goes on until somebody ends it.
    .replaceAll(/^(.*--follow.*?)(\s+# .*)?$/gm, 'timeout 2 $1 || [ $? = 124 ]')
    .replaceAll(/^(.*online-status-(?:edge (?:standalone|run)|coordinator run)\b.*)$/gm, served);
}

const isCluster = (block) => /coordinator|:8090|REDIS_URL|CLUSTER_/.test(block);

// What a block takes for granted: the names of its hosts, and servers that are there unless it starts them itself.
function scene(block) {
  const line = (words) => `${small(words, '')}\n`;
  const tokens = 'ADMIN=$(online-status-edge token --user root --scope presence:admin 2>/dev/null)\nTOKEN=$ADMIN\necho "$ADMIN" >admin.token\n';
  const starts = (words) => block.includes(words);
  if (!isCluster(block)) {
    return (starts('edge standalone') ? '' : line('online-status-edge standalone')) + tokens;
  }
  let before = `redis-server --save '' >/dev/null &\nexport JWT_SECRET='${SECRET}' REDIS_URL=redis://127.0.0.1:6379 KAFKA_BROKERS=127.0.0.1:9\n`;
  before += 'export ONLINE_STATUS_COORDINATOR_REQUEST_TIMEOUT=1s\n';
  if (!starts('coordinator run')) before += line('online-status-coordinator run');
  // Without a broker it serves, and says that it does not publish.
  if (!starts('edge run') && !starts('coordinator run')) before += line('NODE_ID=edge-2 online-status-edge run');
  return before + tokens;
}

// In a user namespace rings count against the user's locked memory, of all that runs at a time.
const isRoot = process.getuid() === 0;
const alone = isRoot ? ['--net', '--mount'] : ['--net', '--mount', '--map-root-user'];

// A shell in a network of its own, with a second address and the names of the pages.
function session(folder, script) {
  const start = `
    set -euo pipefail
    python3 - <<'PYTHON'
import fcntl, socket, struct
inet = socket.socket()
up = lambda name: fcntl.ioctl(inet, 0x8914, struct.pack("16sh14x", name, 0x41))
up(b"lo")
fcntl.ioctl(inet, 0x8916, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("10.0.0.11")))
PYTHON
    echo '127.0.0.1 localhost coordinator redis.example kafka-1.example kafka-2.example' >hosts
    mount --bind hosts /etc/hosts
    ready() {
      for n in $(seq 600); do curl -sf "$1" >/dev/null && return; sleep 0.1; done
      echo "$1 never was ready"; cat said; exit 1
    }
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  `;
  const { JWT_SECRET, REDIS_URL, KAFKA_BROKERS, ...environment } = process.env;
  const env = { ...environment, PATH: `${target}:${process.env.PATH}` };
  const child = spawn('unshare', [...alone, 'bash', '-c', start + script], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data));
  const late = setTimeout(() => child.kill('SIGKILL'), PATIENCE);
  return new Promise((resolve) => child.on('close', (code) => {
    clearTimeout(late);
    resolve({ code, said });
  }));
}

let folder;
before(() => { folder = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-commands-')); });
after(() => fs.rmSync(folder, { recursive: true, force: true }));

let files = 0;
function file(name, text) {
  const made = path.join(folder, `${(files += 1)}-${name}`);
  fs.writeFileSync(made, text);
  return made;
}

function good(program, words) {
  const done = spawnSync(program, words, { encoding: 'utf8' });
  assert.equal(done.status, 0, `${program} ${words.join(' ')}\n${done.stdout}${done.stderr}`);
}

test('every block is run here, or said why not', () => {
  const known = ['sh', 'toml', 'json', 'js'];
  const open = here.filter((block) => !known.includes(block.language) && !isMessages(block));
  assert.deepEqual(open.map(({ name, language }) => `${name} (${language})`), [], 'neither run here nor in elsewhere');
  for (const [page, reasons] of Object.entries(elsewhere)) {
    for (const first of Object.keys(reasons)) {
      assert.ok(all.some((block) => block.page === page && block.first === first), `no block of ${page} begins with ${first}`);
    }
  }
  assert.ok(of('sh').length >= 15 && of('toml').length >= 4, `${of('sh').length} blocks are run`);
});

test('settings in the pages are settings of the edge, and loads are loads of the bench', () => {
  for (const { block } of of('toml')) {
    const written = file('block.toml', block);
    if (/^command = /m.test(block)) good(path.join(target, 'online-status-bench'), ['run', written, '--check']);
    else good(path.join(target, 'online-status-edge'), ['config', 'check', '--config', written]);
  }
});

test('JSON, messages and programs in the pages can be read', () => {
  for (const { block } of of('json')) JSON.parse(block.replaceAll(', …', ''));
  const messages = here.filter(isMessages).flatMap(({ block }) => block.trim().split('\n'));
  assert.ok(messages.length >= 3);
  for (const message of messages) JSON.parse(message.replace(/^[→←] /, ''));
  for (const { block } of of('js')) good(process.execPath, ['--check', file('block.mjs', block)]);
});

const may = spawnSync('unshare', [...alone, 'true']).status === 0;
const needs = may ? false : `this user may make no network of its own (unshare ${alone.join(' ')})`;

// Blocks that want the same cluster share one; all others have a network each. These wait side by side.
const startsServer = ({ block }) => /edge (?:standalone|run)|coordinator run/.test(block);
const [shared, each] = [[], []];
for (const block of of('sh')) (isCluster(block.block) && !startsServer(block) ? shared : each).push(block);
const sessions = [...each.map((block) => [block]), shared];

describe('what is run', { concurrency: isRoot ? 4 : 2, skip: needs }, () => {
  for (const together of sessions) {
    test(together.map(({ name }) => name).join('\n'), async () => {
      const own = fs.mkdtempSync(path.join(folder, 'block-'));
      const scripts = together.map(({ name, block }) => `echo ${JSON.stringify(`== ${name}`).replaceAll(/[$`]/g, '\\$&')}\n${small(block, own)}`);
      const script = scene(together[0].block) + scripts.join('\n');
      const { code, said } = await session(own, script);
      // A bench that was late on a busy machine says so, and that it proves nothing.
      assert.ok(code === 0 || said.includes('INVALID'), `exit code ${code}\n${script}\n${said}`);
      assert.doesNotMatch(said, /"status":[45]\d\d/, `a request was answered with a problem:\n${said}`);
    });
  }
});
