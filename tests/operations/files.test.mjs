// What operators are given besides the binaries: the compose file, the seccomp profile, the systemd
// units. Nothing here needs a container engine or systemd to run.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const binary = (name) => path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release', name);
const edge = binary('online-status-edge');
const SECRET = 'a secret of the tests, long enough for HS256';

function run(command, words, options = {}) {
  const done = spawnSync(command, words, { cwd: root, encoding: 'utf8', ...options });
  if (done.error) throw done.error;
  return done;
}

function folder(t) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-operations-'));
  t.after(() => fs.rmSync(made, { recursive: true, force: true }));
  return made;
}

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// Starts a standalone edge under a seccomp profile; what it says, and its address.
async function edgeUnder(t, profile) {
  const [port, admin] = [await freePort(), await freePort()];
  const words = ['standalone', '--listen', `127.0.0.1:${port}`, '--server-admin-listen', `127.0.0.1:${admin}`];
  const { JWT_SECRET, ...environment } = process.env;
  const child = spawn('/usr/bin/python3', [path.join(root, 'tests/operations/under_seccomp.py'), profile, edge, ...words], {
    stdio: ['ignore', 'ignore', 'pipe'], env: environment,
  });
  t.after(() => child.kill('SIGKILL'));
  let said = '';
  child.stderr.on('data', (data) => (said += data));
  const ended = new Promise((resolve) => child.on('close', (code) => resolve(code)));
  return { url: `http://127.0.0.1:${port}`, admin: `http://127.0.0.1:${admin}`, ended, said: () => said };
}

async function serves(running) {
  for (const deadline = Date.now() + 20000; ; ) {
    const page = await fetch(`${running.url}/route?userId=alice`).then((answer) => answer.json(), () => null);
    if (page) return assert.equal(page.userId, 'alice');
    assert.ok(Date.now() < deadline, `the edge does not serve: ${running.said()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const profilePath = path.join(root, 'docker/seccomp-io_uring.json');

test('docker-compose.yml is valid and all files it uses are there', () => {
  const done = run('docker-compose', ['config'], { env: { ...process.env, JWT_SECRET: SECRET } });
  assert.equal(done.status, 0, done.stderr);
  const text = fs.readFileSync(path.join(root, 'docker-compose.yml'), 'utf8');
  const used = [...text.matchAll(/(?:- \.\/|seccomp=|dockerfile: )([^\s:]+)/g)].map(([, name]) => name);
  assert.ok(used.length >= 5);
  for (const name of used) assert.ok(fs.existsSync(path.join(root, name)), name);
});

test('docker-compose.yml has no secret of its own', (t) => {
  const elsewhere = folder(t);
  const { JWT_SECRET, ...environment } = process.env;
  const empty = path.join(elsewhere, 'empty');
  fs.writeFileSync(empty, '');
  const done = run('docker-compose', ['--env-file', empty, 'config'], { env: environment });
  assert.notEqual(done.status, 0);
  assert.match(done.stderr, /JWT_SECRET/);
});

test('an edge serves under the seccomp profile of its container', async (t) => {
  await serves(await edgeUnder(t, profilePath));
});

test('without io_uring in the profile the edge says what is missing', async (t) => {
  const profile = JSON.parse(fs.readFileSync(profilePath, 'utf8'));
  const kept = profile.syscalls.filter((rule) => !rule.names.includes('io_uring_setup'));
  assert.equal(kept.length, profile.syscalls.length - 1);
  const without = path.join(folder(t), 'profile.json');
  fs.writeFileSync(without, JSON.stringify({ ...profile, syscalls: kept }));
  const running = await edgeUnder(t, without);
  assert.equal(await running.ended, 1);
  assert.match(running.said(), /seccomp profile has to allow io_uring_setup/);
});

test('the profile gives no new namespaces and no sockets of other families', () => {
  const under = (...words) => run('/usr/bin/python3', ['tests/operations/under_seccomp.py', profilePath, ...words]);
  assert.equal(under('true').status, 0);
  assert.notEqual(under('unshare', '--user', 'true').status, 0);
  const python = (family) => ['/usr/bin/python3', '-c', `import socket; socket.socket(${family}, socket.SOCK_DGRAM)`];
  assert.equal(under(...python('socket.AF_INET')).status, 0);
  assert.match(under(...python('socket.AF_PACKET')).stderr, /Operation not permitted/);
});

const units = ['online-status-edge@.service', 'online-status-edge.service', 'online-status-coordinator.service'];
const unit = (name) => fs.readFileSync(path.join(root, 'packaging/systemd', name), 'utf8');

test('systemd finds nothing wrong in the units', (t) => {
  const made = folder(t);
  for (const name of units) {
    // As installed, but with binaries that are here.
    const text = unit(name).replaceAll(/\/usr\/bin\/(online-status-\w+)/g, (_, program) => binary(program));
    const file = path.join(made, name);
    fs.writeFileSync(file, text);
    const done = run('systemd-analyze', ['verify', '--man=no', file]);
    assert.equal(done.status, 0, done.stderr);
    assert.equal(done.stderr, '');
  }
});

test('no flag of a unit wins over the environment file', () => {
  for (const name of units) {
    const [, words] = unit(name).match(/^ExecStart=(.*)$/m);
    assert.match(words, /^\/usr\/bin\/online-status-(edge|coordinator) (run|standalone)$/, `${name}: ${words}`);
  }
});

test('a unit needs no program that a minimal system lacks, and is started again for ever', () => {
  for (const name of units) {
    const text = unit(name);
    const programs = [...text.matchAll(/^Exec\w+=(\S+)/gm)].map(([, program]) => program);
    assert.ok(programs.length >= 2, text);
    for (const program of programs) assert.match(program, /^(\/bin\/sh|\/usr\/bin\/online-status-(edge|coordinator))$/);
    assert.match(text, /^Restart=always$/m);
    assert.match(text, /^StartLimitIntervalSec=0$/m);
    assert.match(text, /^Type=notify$/m);
    assert.match(text, /^WatchdogSec=\d+$/m);
  }
});

// The system calls of a set like @system-service, as systemd lists them.
function expand(set) {
  const lines = run('systemd-analyze', ['syscall-filter', set]).stdout.split('\n').slice(1).map((line) => line.trim());
  const names = lines.filter((line) => line && !line.startsWith('#'));
  return names.flatMap((name) => (name.startsWith('@') ? expand(name) : [name]));
}

test('an edge serves under the system calls that its unit allows', async (t) => {
  const [, words] = unit(units[0]).match(/^SystemCallFilter=(.*)$/m);
  const names = words.split(' ').flatMap((word) => (word.startsWith('@') ? expand(word) : [word]));
  const profile = {
    defaultAction: 'SCMP_ACT_ERRNO',
    archMap: [{ architecture: 'SCMP_ARCH_X86_64' }, { architecture: 'SCMP_ARCH_AARCH64' }],
    syscalls: [{ names, action: 'SCMP_ACT_ALLOW' }],
  };
  const file = path.join(folder(t), 'profile.json');
  fs.writeFileSync(file, JSON.stringify(profile));
  await serves(await edgeUnder(t, file));
});

test('docs/security.md has 60 hostile inputs and more, and every test that it names exists', () => {
  const page = fs.readFileSync(path.join(root, 'docs/security.md'), 'utf8');
  const rows = page.slice(page.indexOf('\n## Hostile inputs')).split('\n## ')[1].split('\n').filter((line) => line.startsWith('| '));
  const inputs = rows.slice(1).map((row) => row.split(' | '));
  assert.ok(inputs.length >= 60, `${inputs.length} inputs`);
  const { stdout } = run('git', ['ls-files', '*.rs']);
  const sources = stdout.trim().split('\n').map((name) => [name, fs.readFileSync(path.join(root, name), 'utf8')]);
  const named = (text) => [...text.matchAll(/`([a-z_]+(?:::[a-z0-9_]+)+)`/g)].map(([, name]) => name.split('::'));
  for (const cells of inputs) {
    assert.ok(named(cells[2]).length > 0 || cells[2].includes('the same') || cells[2].includes('`tests/'), cells.join(' | '));
  }
  const claimed = named(page).filter((way) => way.at(-1) !== 'tests');
  assert.ok(claimed.length > 40, `${claimed.length} names`);
  for (const way of claimed) {
    const [name, file] = [way.at(-1), way.filter((part) => part !== 'tests').at(-2)];
    const has = ([source, text]) => source.includes(`${file}`) && text.includes(`fn ${name}(`);
    assert.ok(sources.some(has), `no test ${way.join('::')}`);
  }
});

const pages = ['README.md', ...fs.readdirSync(path.join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
const page = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const fenced = /^ *```.*?^ *```/gms;

// A heading's anchor, as the pages of GitHub and GitLab have it.
const anchor = (heading) => heading.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-');
const anchors = (name) => [...page(name).replaceAll(fenced, '').matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchor(heading));

test('every link between the pages leads to a file and to a heading that is there', () => {
  let found = 0;
  for (const name of pages) {
    for (const [, to] of page(name).replaceAll(fenced, '').matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^\w+:/.test(to)) continue;
      const [file, heading] = to.split('#');
      const target = file ? path.join(path.dirname(name), file) : name;
      assert.ok(fs.existsSync(path.join(root, target)), `${name}: ${to}`);
      if (heading !== undefined && target.endsWith('.md')) assert.ok(anchors(target).includes(heading), `${name}: ${to}`);
      found += 1;
    }
  }
  assert.ok(found > 100, `${found} links`);
});

test('docs/logs.md has every event that a program writes to its log, with its level', () => {
  const { stdout } = run('git', ['ls-files', ...['edge', 'coordinator', 'keys', 'program', 'redis', 'kafka'].map((name) => `${name}/src`)]);
  const written = new Map();
  const add = (event, level) => written.set(event, (written.get(event) ?? new Set()).add(level));
  for (const name of stdout.trim().split('\n')) {
    const source = fs.readFileSync(path.join(root, name), 'utf8');
    for (const [, level, event] of source.matchAll(/\b(error|warn|info)!\(\s*event = "(\w+)"/g)) add(event, level);
    assert.doesNotMatch(source, /\b(?:error|warn|info)!\((?!\s*event\b)/, `an event without a name: ${name}`);
    // What a value is called in the log stands in a function of its type.
    for (const [body] of source.matchAll(/const fn event\(&?self\).*?\n    \}\n/gs)) {
      for (const [, event] of body.matchAll(/=> "(\w+)"/g)) add(event, undefined);
    }
  }
  const told = new Map();
  for (const [, events, levels] of page('docs/logs.md').matchAll(/^\| (`\w+`(?:, `\w+`)*) \| ([\w, ]+) \|/gm)) {
    const level = levels.split(', ');
    events.split(', ').forEach((event, nth) => told.set(event.slice(1, -1), level[nth] ?? level.at(-1)));
  }
  assert.ok(told.size > 50, `${told.size} events`);
  assert.deepEqual([...told.keys()].sort(), [...written.keys()].sort());
  for (const [event, levels] of written) {
    for (const level of levels) assert.ok(level === undefined || level === told.get(event), `${event}: ${level}, told as ${told.get(event)}`);
  }
});

test('every command of ours in the pages has the subcommands and options that the programs know', () => {
  const helps = new Map();
  const help = (program, words) => {
    const key = [program, ...words].join(' ');
    if (!helps.has(key)) helps.set(key, run(binary(program), [...words, '--help']));
    return helps.get(key);
  };
  let found = 0;
  for (const name of pages) {
    for (const [block] of page(name).matchAll(fenced)) {
      if (!/^ *```sh\n/.test(block)) continue;
      for (const written of block.replaceAll(/\\\n/g, ' ').split('\n')) {
        const line = written.replace(/cargo run .*-p (\S+) -- /, '$1 ').replace(/cargo .*/, '');
        const [, program, rest] = line.replace(/\s#.*$/, '').match(/(?:^|\s|\()(online-status-(?:edge|coordinator|bench|tuning))((?: [^|&>)]+)+)/) ?? [];
        if (!program) continue;
        const words = rest.trim().split(/\s+/);
        const plain = words.findIndex((word) => !/^[a-z-]+$/.test(word) || word.startsWith('-'));
        let subcommands = plain < 0 ? words : words.slice(0, plain);
        // What is no subcommand is an argument, such as a file.
        while (subcommands.length > 1 && help(program, subcommands).status !== 0) subcommands = subcommands.slice(0, -1);
        const { status, stdout } = help(program, subcommands);
        assert.equal(status, 0, `${name}: ${line}`);
        for (const word of words.filter((word) => word.startsWith('--'))) {
          const option = word.split('=')[0];
          assert.ok(stdout.includes(option), `${name}: ${program} ${subcommands.join(' ')} has no ${option}: ${line}`);
        }
        found += 1;
      }
    }
  }
  assert.ok(found > 30, `${found} commands`);
});
