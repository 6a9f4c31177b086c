// The console: asks the server it came from, shows the fleet, and drains nodes. The token of an
// administrator is in this tab alone, and goes nowhere but to that server.

const $ = (id) => document.getElementById(id);
const PERIOD = 2000;
const HISTORY_PERIOD = 5000;
const FLASH = 3000;

let token = sessionStorage.getItem('token') ?? '';
let fleet;

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { signal: AbortSignal.timeout(10000), ...options, headers });
  if (answer.status === 204) return undefined;
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) throw new Refused(body.detail ?? `HTTP ${answer.status}`);
  if (!answer.ok) throw new Error(body.detail ?? `HTTP ${answer.status}`);
  return body;
}

function element(name, text, classes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

const number = (value) => Math.round(value).toLocaleString('en');
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const ms = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(0));
const megabytes = (value) => `${number(value / 2 ** 20)} MiB`;
const time = (at) => new Date(at).toLocaleTimeString();

// Neighbours in the list differ most: each is the golden angle further.
function hue(name) {
  const at = fleet.nodes.findIndex((node) => node.node === name);
  return (210 + 137.5 * at) % 360;
}

function swatch(name) {
  const made = element('span', '', 'swatch');
  made.style.background = `hsl(${hue(name)} 50% 45%)`;
  return made;
}

// -- the fleet

function show() {
  const alive = fleet.nodes.filter((node) => node.state !== 'dead' && node.state !== 'left');
  const sum = (read) => number(alive.reduce((all, node) => all + read(node), 0));
  $('coordinator').textContent = fleet.coordinator;
  $('leader').textContent = fleet.leading ? 'this one' : fleet.leader ?? 'nobody';
  $('map').textContent = fleet.mapVersion ?? 'none yet';
  $('sessions').textContent = sum((node) => node.load.sessions);
  $('changes').textContent = sum((node) => node.load.eventsPerSecond);
  $('deliveries').textContent = sum((node) => node.load.deliveriesPerSecond);
  $('moving').textContent = sum((node) => node.moving);
  banner(fleet.stale === undefined ? '' : `The store does not answer: this is ${fleet.stale} s old, and nothing moves.`);
  // Who stands on a button of a line keeps standing there.
  const focused = document.activeElement?.dataset?.drain;
  $('nodes').replaceChildren(...fleet.nodes.flatMap((node) => [row(node), ...($('cores').checked ? node.load.perCore.map(coreRow) : [])]));
  if (focused) document.querySelector(`[data-drain="${CSS.escape(focused)}"]`)?.focus();
  $('trouble').hidden = fleet.problems.length === 0;
  $('problems').replaceChildren(...fleet.problems.map((problem) => element('li', problem.message)));
  showOwners();
  showSlow();
  showEvents();
}

function banner(text) {
  if ($('banner').textContent !== text) $('banner').textContent = text;
  $('banner').hidden = !text;
}

function row(node) {
  const { load } = node;
  const line = element('tr');
  line.dataset.node = node.node;
  const name = element('th', node.node);
  name.scope = 'row';
  name.prepend(swatch(node.node));
  const state = element('td', node.state, `state ${node.state}`);
  const notes = [];
  if (node.penalty > 0 && node.state === 'penalised') notes.push(`for ${node.penalty} s`);
  if (node.leaving) notes.push('leaving');
  if (node.leaseMissing) notes.push(`not seen for ${node.unseen} s`);
  if (fleet.mapVersion !== null && node.vnodes > 0 && node.mapVersion < fleet.mapVersion) notes.push('behind');
  if (notes.length > 0) state.append(element('span', ` ${notes.join(', ')}`, 'note'));
  const values = [number(node.vnodes), percent(node.share), number(node.moving),
    node.leaseMissing || node.leaseAge === null ? '–' : `${(node.leaseAge / 1000).toFixed(1)} s`,
    number(load.sessions), number(load.eventsPerSecond), number(load.deliveriesPerSecond),
    load.deliveryP99 > 0 ? `${ms(load.deliveryP99)} ms` : '–', percent(load.cpu), load.memory > 0 ? megabytes(load.memory) : '–',
    number(load.storeQueue + load.busQueue), number(load.lagRecords)];
  const action = element('td');
  const button = element('button', node.drained ? 'undrain' : 'drain');
  button.type = 'button';
  button.dataset.drain = node.node;
  button.setAttribute('aria-label', `${button.textContent} ${node.node}`);
  button.addEventListener('click', () => change(node, button.textContent));
  action.append(button);
  line.append(name, state, action, ...values.map((value) => element('td', value, 'n')), element('td', node.address, 'note'));
  return line;
}

function coreRow(core, at) {
  const line = element('tr', undefined, 'core');
  const name = element('th', `core ${at}`);
  name.scope = 'row';
  const values = ['', '', '', '', number(core.sessions), number(core.eventsPerSecond), number(core.deliveriesPerSecond), '',
    core.cpu === null ? '–' : percent(core.cpu), '', number(core.queued), ''];
  line.append(name, element('td'), element('td'), ...values.map((value) => element('td', value, 'n')), element('td'));
  return line;
}

function sure(title, text, yes) {
  $('sure-title').textContent = title;
  $('sure-text').textContent = text;
  $('yes').textContent = yes;
  const dialog = $('sure');
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

async function change(node, what) {
  const text = what === 'drain'
    ? `Its ${number(node.vnodes)} vnodes and ${number(node.load.sessions)} sessions move to the other nodes, step by step.`
    : 'It gets its share of the vnodes back, step by step.';
  if (!await sure(`${what === 'drain' ? 'Drain' : 'Undrain'} ${node.node}?`, text, what === 'drain' ? 'Drain' : 'Undrain')) return;
  try {
    await ask(`nodes/${encodeURIComponent(node.node)}/${what}`, { method: 'POST' });
    $('result').textContent = `${node.node}: ${what} was accepted`;
  } catch (error) {
    $('result').textContent = `${node.node}: ${error.message}`;
  }
  refresh();
}

function showSlow() {
  const lines = fleet.nodes.flatMap(({ node, load }) => {
    const cores = load.perCore.map((core, at) => [core, at]).filter(([core]) => core.slow > 0);
    const parts = cores.map(([core, at]) => [node, at, core.slow, core.outboxBytes, '']);
    return load.slow > 0 || load.slowClosed > 0 ? [[node, 'all', load.slow, load.outboxBytes, load.slowClosed], ...parts] : [];
  });
  $('nobody-slow').hidden = lines.length > 0;
  $('slow-table').hidden = lines.length === 0;
  $('slow').replaceChildren(...lines.map(([node, core, ...figures]) => {
    const line = element('tr');
    const name = element('th', node);
    name.scope = 'row';
    line.append(name, element('td', core), ...figures.map((figure) => element('td', figure === '' ? '' : number(figure), 'n')));
    return line;
  }));
}

function showEvents() {
  const shown = fleet.events.filter((event) => $('every').checked || event.kind !== 'map').toReversed();
  $('events').replaceChildren(...shown.map((event) => {
    const line = element('li', undefined, event.kind);
    const at = element('time', time(event.at));
    at.dateTime = new Date(event.at).toISOString();
    line.append(at, ' ', element('b', event.kind), ` ${event.message}`);
    return line;
  }));
}

let timer = 0;
async function refresh() {
  clearTimeout(timer);
  try {
    fleet = await ask('nodes');
    show();
  } catch (error) {
    banner(`The server does not answer: ${error.message}`);
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, PERIOD);
}

// -- vnodes

let owners = [];
let epochs = [];
// When each vnode was seen to move.
let moved = [];
let version = 0;

function take(map) {
  const first = version === 0;
  const before = owners;
  [owners, epochs] = [[], []];
  for (const run of map.runs) {
    for (let vnode = run.first; vnode <= run.last; vnode++) {
      owners[vnode] = run.node;
      epochs[vnode] = run.epoch;
    }
  }
  const moves = new Map();
  owners.forEach((owner, vnode) => {
    if (first || before[vnode] === owner) return;
    moved[vnode] = performance.now();
    const move = `${before[vnode] ?? 'nobody'} → ${owner ?? 'nobody'}`;
    moves.set(move, (moves.get(move) ?? 0) + 1);
  });
  version = map.version;
  const said = moves.size > 0 ? `moved ${[...moves].map(([move, count]) => `${number(count)}: ${move}`).join(', ')}` : 'nothing moved';
  $('heat-text').textContent = `Map ${version}, ${number(owners.length)} vnodes of ${map.nodes.length} nodes: ${said}.`;
  $('vnode').max = owners.length - 1;
  showOwner();
  showOwners();
}

// Colours are the nodes', so this is done anew with each look at the fleet.
function showOwners() {
  if (owners.length === 0) return;
  const counts = new Map();
  owners.forEach((owner) => counts.set(owner, (counts.get(owner) ?? 0) + 1));
  $('legend').replaceChildren(...[...counts].sort().map(([owner, count]) => {
    const line = element('li', `${owner ?? 'nobody'} ${number(count)}`);
    if (owner) line.prepend(swatch(owner));
    return line;
  }));
  draw();
}

// A pixel a vnode, made larger by the style sheet; what has just moved is bright for a while.
function draw() {
  const canvas = $('heat');
  const wide = 2 ** Math.ceil(Math.log2(owners.length) / 2 + 1);
  if (canvas.width !== wide) [canvas.width, canvas.height] = [wide, Math.ceil(owners.length / wide)];
  const context = canvas.getContext('2d');
  const now = performance.now();
  let flashing = false;
  owners.forEach((owner, vnode) => {
    const since = now - (moved[vnode] ?? -FLASH);
    const bright = Math.max(0, 1 - since / FLASH);
    flashing ||= bright > 0;
    context.fillStyle = owner ? `hsl(${hue(owner)} ${50 + 40 * bright}% ${45 + 40 * bright}%)` : '#888';
    context.fillRect(vnode % wide, Math.floor(vnode / wide), 1, 1);
  });
  if (flashing) setTimeout(() => requestAnimationFrame(draw), 150);
}

function showOwner() {
  const vnode = Number($('vnode').value);
  $('owner').textContent = vnode in owners ? `${owners[vnode] ?? 'nobody'}, epoch ${epochs[vnode]}` : 'there is no such vnode';
}

async function follow() {
  for (;;) {
    try {
      const map = await ask(version ? `map?after=${version}` : 'map', { signal: AbortSignal.timeout(60000) });
      if (map && map.version !== version) take(map);
    } catch {
      // What is wrong is said by the rest of the page.
      await new Promise((resolve) => setTimeout(resolve, PERIOD));
    }
  }
}

// -- the last hour

const PLOTS = [
  { title: 'Sessions', lines: [['sessions', 'sessions']] },
  { title: 'Changes and deliveries a second', lines: [['changes', 'changes'], ['deliveries', 'deliveries']] },
  { title: 'Delivery of the slowest node, ms', lines: [['p99', 'p99'], ['p50', 'p50']], say: ms },
  { title: 'Kafka lag, messages not read', lines: [['lag', 'lag']] },
  { title: 'Redis, records written a second', lines: [['writes', 'storeWrites']] },
  { title: 'Slow sessions, vnodes on their way', lines: [['slow', 'slow'], ['moving', 'moving']] },
];
const STROKES = { light: ['#1f6feb', '#c2410c'], dark: ['#6cb0ff', '#ffa657'] };
const dark = matchMedia('(prefers-color-scheme: dark)');
const history = { at: [] };

function plot(plan) {
  const figure = element('figure');
  const caption = element('figcaption');
  const place = element('div');
  figure.append(caption, place);
  $('plots').append(figure);
  let drawn;
  const data = () => [history.at.map((at) => at / 1000), ...plan.lines.map(([, key]) => history[key])];
  const size = () => ({ width: Math.max(200, place.clientWidth), height: 180 });
  const make = () => {
    drawn?.destroy();
    const [strokes, ink, line] = dark.matches ? [STROKES.dark, '#a4abb4', '#3a4048'] : [STROKES.light, '#5a6068', '#cfd4da'];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const series = plan.lines.map(([label], at) => ({ label, stroke: strokes[at], width: 2, spanGaps: false }));
    drawn = new uPlot({ ...size(), cursor: { y: false }, scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [{ ...axis, space: 90, values: (_, times) => times.map((at) => new Date(at * 1000).toLocaleTimeString()) }, { ...axis, size: 60 }], series: [{}, ...series] }, undefined, place);
    draw();
  };
  // A coordinator that has just started has few samples, to which the library would choose a scale of years.
  const draw = () => {
    drawn.setData(data(), false);
    const [first, last] = [history.at[0] / 1000, history.at.at(-1) / 1000];
    if (last) drawn.setScale('x', { min: Math.min(first, last - 300), max: last });
  };
  const update = () => {
    const say = plan.say ?? number;
    const parts = plan.lines.map(([label, key]) => {
      const known = history[key].filter((value) => value !== null);
      return `${label} ${known.length > 0 ? `${say(known.at(-1))} (most ${say(Math.max(...known))})` : 'none yet'}`;
    });
    caption.textContent = `${plan.title}: ${parts.join(', ')}`;
    draw();
  };
  make();
  dark.addEventListener('change', make);
  new ResizeObserver(() => drawn.setSize(size())).observe(place);
  return update;
}

let updates;
async function remember() {
  try {
    const more = await ask(`history?after=${history.at.at(-1) ?? 0}`);
    const oldest = Date.now() - 3600000;
    for (const [key, values] of Object.entries(more.samples)) history[key] = [...(history[key] ?? []), ...values];
    const stale = history.at.filter((at) => at < oldest).length;
    if (stale > 0) for (const key of Object.keys(history)) history[key].splice(0, stale);
    updates ??= PLOTS.map(plot);
    updates.forEach((update) => update());
  } catch (error) {
    if (error instanceof Refused) return leave(error.message);
  }
  setTimeout(remember, HISTORY_PERIOD);
}

// -- a user

async function look(user) {
  $('unknown').textContent = '';
  const list = [];
  const say = (name, value) => {
    const part = element('div');
    part.append(element('dt', name), element('dd', value));
    list.push(part);
  };
  try {
    const found = await ask(`users?userId=${encodeURIComponent(user)}`);
    const { record } = found;
    say('user', found.user);
    say('status', record.status);
    if (record.text) say('text', record.text);
    if (record.since) say('since', new Date(record.since).toLocaleString());
    if (record.last_seen) say('last seen', new Date(record.last_seen).toLocaleString());
    say('devices', number(record.devices));
    say('version', String(record.version));
    say('vnode', String(found.vnode));
    say('node', found.node ?? 'nobody serves it');
    say('epoch', String(found.epoch));
  } catch (error) {
    $('unknown').textContent = `${user}: ${error.message}`;
  }
  $('user').replaceChildren(...list);
  if (list.length > 0) askAll('watchers', `watchers?userId=${encodeURIComponent(user)}`, [['node'], ['user'], ['session']], (total) => `${sessions(total)} watch${total === 1 ? 'es' : ''} ${user}`);
}

// -- what every core of every node is asked

const sessions = (count) => `${number(count)} session${count === 1 ? '' : 's'}`;
const asked = {};

// Fills the table of that name with the sessions of the answer, and its line with what it says of them.
async function askAll(name, path, columns, summary) {
  const [line, table] = [$(`${name}-said`), $(`${name}-table`)];
  const mine = asked[name] = {};
  table.hidden = true;
  line.textContent = 'All nodes are asked …';
  let rows = [];
  try {
    const found = await ask(path);
    const parts = [summary(found.total)];
    if (found.notNamed > 0) parts.push(`${number(found.notNamed)} of them are not named here`);
    if (found.silent.length > 0) parts.push(`not counted, since they did not answer: ${found.silent.join(', ')}`);
    if (mine !== asked[name]) return;
    line.textContent = `${parts.join('; ')}.`;
    rows = found.sessions.map((session) => {
      const row = element('tr');
      row.append(...columns.map(([key, say]) => say ? element('td', say(session[key] ?? 0), 'n') : element('td', session[key])));
      return row;
    });
  } catch (error) {
    if (mine !== asked[name]) return;
    line.textContent = error.message;
  }
  $(name).replaceChildren(...rows);
  table.hidden = rows.length === 0;
}

// -- in and out

function leave(why) {
  sessionStorage.removeItem('token');
  if (why) sessionStorage.setItem('refused', why);
  // Nothing of what was shown stays.
  location.reload();
}

async function enter() {
  try {
    await ask('history?after=9007199254740991');
  } catch (error) {
    if (!(error instanceof Refused)) {
      banner(`The server does not answer: ${error.message}`);
      $('console').hidden = false;
      setTimeout(enter, PERIOD);
      return;
    }
    $('refused').textContent = token ? error.message : sessionStorage.getItem('refused') ?? '';
    sessionStorage.removeItem('refused');
    $('console').hidden = true;
    $('enter').hidden = false;
    $('token').focus();
    return;
  }
  if (token) sessionStorage.setItem('token', token);
  $('enter').hidden = true;
  $('leave').hidden = !token;
  $('console').hidden = $('facts').hidden = false;
  await refresh();
  remember();
  follow();
}

$('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  const given = $('token').value.trim().replace(/^bearer\s+/i, '');
  $('token').value = '';
  // No header may have anything else, and a browser says so in words for programmers.
  if (!/^[\x21-\x7e]+$/.test(given)) {
    $('refused').textContent = 'This is no token: one has letters, digits and the signs . - _ alone, and no spaces. Copy it again, without what stands around it.';
    return;
  }
  token = given;
  enter();
});
$('leave').addEventListener('click', () => leave());
$('cores').addEventListener('change', show);
$('every').addEventListener('change', showEvents);
$('vnode').addEventListener('input', showOwner);
$('heat').addEventListener('pointermove', ({ offsetX, offsetY, target }) => {
  const column = Math.floor(offsetX * target.width / target.clientWidth);
  $('vnode').value = Math.floor(offsetY * target.height / target.clientHeight) * target.width + column;
  showOwner();
});
$('who-slow').addEventListener('click', () => {
  const waiting = [['bytes', number], ['changes', number], ['blockedMs', (value) => `${(value / 1000).toFixed(1)} s`]];
  askAll('slow-sessions', 'slow', [['node'], ['user'], ['session'], ...waiting], (total) => `${sessions(total)} ${total === 1 ? 'has' : 'have'} bytes waiting`);
});
$('look').addEventListener('submit', (event) => {
  event.preventDefault();
  look($('looked').value.trim());
});
document.addEventListener('visibilitychange', () => { if (!document.hidden && fleet) refresh(); });
enter();
