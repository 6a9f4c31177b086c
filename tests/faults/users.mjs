// Users of the scenarios' own, beside those of the bench: where each connects, and that many do so a
// second. What they do, and what is true of them, is the scenario's.
import { Socket } from '../dev-cluster/socket.mjs';
import { now, sleep } from './cluster.mjs';

/** Questions to a coordinator at a time. */
const AT_ONCE = 50;

/** A name for users that no other run has. */
export const fresh = (kind) => `${kind}-${Date.now().toString(36)}`;

/** The routes of users, in order. */
export async function routes(cluster, users) {
  const found = [];
  for (let at = 0; at < users.length; at += AT_ONCE) {
    const some = users.slice(at, at + AT_ONCE);
    found.push(...await Promise.all(some.map((user) => cluster.ask(`/route?userId=${user}`))));
  }
  return found;
}

/** Opens a session of a user where its route says. */
export async function session(cluster, { userId, address }) {
  const socket = await Socket.open(address, cluster.token(userId));
  await socket.message('welcome', (message) => message.type === 'welcome');
  return socket;
}

/** Calls `act` with each of `all`, evenly over so many seconds. */
export async function paced(all, seconds, act) {
  const start = now();
  await Promise.all(all.map(async (one, n) => {
    await sleep(start + (n * seconds) / all.length - now());
    await act(one, n);
  }));
}
