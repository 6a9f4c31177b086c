// Users who vanish and do not come back, each watched from another edge: when their watchers are told
// (invariant I6). It owns the pairs and the judgement by the bounds that `config check` prints.
import { execFileSync } from 'node:child_process';
import { edgeProgram, now, sleep } from './cluster.mjs';
import { fresh, paced, routes, session } from './users.mjs';

const PAIRS = 200;
/** Seconds that are waited beyond the bound, and after the last was told, for what is told twice. */
const AFTERGLOW = 5;

/** What `config check` says of the edges' settings, seconds. */
export function bounds(cluster) {
  const page = execFileSync(edgeProgram, ['config', 'check'], {
    env: { ...cluster.env, NODE_ID: 'faults' }, encoding: 'utf8',
  });
  const find = (pattern) => {
    const found = page.match(pattern);
    if (!found) throw new Error(`config check prints nothing like ${pattern}`);
    return Number(found[1]) / 1000;
  };
  return {
    client: find(/client that vanishes is offline to its watchers within (\d+) ms/),
    node: find(/users of a node that vanishes are offline within (\d+) ms/),
    // What loses its connection is offline 300 ms after that at most.
    grace: find(/only loses its connection is offline within (\d+) ms/) - 0.3,
  };
}

/** What watchers were told since their users vanished, seconds, held against grace and bound. */
export function judge(pairs, since, { grace, bound }, found) {
  const count = (what, wrong) => {
    const many = pairs.filter(wrong).length;
    if (many > 0) found.wrong(`${many} of ${pairs.length} users ${what}`);
  };
  const first = (pair) => pair.told[0]?.at - since;
  count('look online for ever', (pair) => pair.told.length === 0);
  count('were shown in another state', (pair) => pair.told.some(({ status }) => status !== 'offline'));
  count('were told offline twice', (pair) => pair.told.filter(({ status }) => status === 'offline').length > 1);
  count(`were offline before the grace of ${grace} s`, (pair) => first(pair) < grace);
  count(`were offline later than the bound of ${bound} s`, (pair) => first(pair) > bound);
  const times = pairs.map(first).filter((at) => !Number.isNaN(at)).sort((a, b) => a - b);
  const [least, median, most] = [0, times.length >> 1, times.length - 1].map((n) => times[n]?.toFixed(1));
  found.fact(`${times.length} of ${pairs.length} users offline after ${least} / ${median} / ${most} s `
    + `(min / median / max), bound ${bound} s`);
}

export class Ghosts {
  /** Users of `edge`, or of any, and a watcher of each at another edge; the users come over `ramp` seconds. */
  static async gather(cluster, { edge, ramp }) {
    const ghosts = new Ghosts();
    const prefix = fresh('ghost');
    const names = Array.from({ length: PAIRS * 8 }, (_, n) => `${prefix}-${n}`);
    const all = await routes(cluster, names);
    const users = all.filter((route) => !edge || route.node === edge).slice(0, PAIRS);
    const others = all.filter((route) => !users.includes(route));
    ghosts.pairs = users.map((user) => {
      const at = others.findIndex((other) => other.node !== user.node && other.node !== edge);
      return { user, watcher: others.splice(at, 1)[0], told: [] };
    });
    await paced(ghosts.pairs, ramp, async (pair) => {
      pair.ghost = await session(cluster, pair.user);
      const watcher = await session(cluster, pair.watcher);
      pair.watching = watcher;
      watcher.heard = (message) => {
        for (const record of message.users ?? []) pair.told.push({ at: now(), status: record.status });
      };
      watcher.send({ type: 'watch', users: [pair.user.userId], id: 1 });
    });
    const seen = () => ghosts.pairs.every((pair) => pair.told.at(-1)?.status === 'online');
    await cluster.until('all watchers see their users', seen, 20);
    return ghosts;
  }

  /** The users stop answering; their connections stay. */
  vanish() {
    for (const pair of this.pairs) pair.ghost.vanish();
    return now();
  }

  /** Waits until all watchers were told, and for what comes after that; judges it. */
  async judge(since, { grace, bound }, found) {
    for (const pair of this.pairs) pair.told = pair.told.filter((told) => told.at >= since);
    const end = since + bound + AFTERGLOW;
    const waits = () => this.pairs.some((pair) => pair.told.length === 0);
    while (now() < end && waits()) await sleep(0.1);
    await sleep(AFTERGLOW);
    const lost = this.pairs.filter((pair) => pair.watching.closed).length;
    if (lost > 0) found.wrong(`${lost} watchers lost their session`);
    judge(this.pairs, since, { grace, bound }, found);
  }

  close() {
    for (const pair of this.pairs) {
      pair.ghost?.destroy();
      pair.watching?.destroy();
    }
  }
}
