// Users who say things while the store is away and are then quiet, so that it is known what the store
// has to hold of each. It owns that truth and the comparison.
import { now, sleep } from './cluster.mjs';
import { fresh, paced, routes, session } from './users.mjs';

/** Users who speak, leave, stay as they are, and come. */
const [SPEAK, LEAVE, STAY, COME] = [150, 50, 50, 50];
/** How long the store is asked again, seconds. */
const PATIENCE = 30;
/** How each status comes about. */
const SAID = {
  online: { status: 'online', mode: 'auto' },
  away: { status: 'away', mode: 'auto' },
  busy: { mode: 'busy' },
};
const STATUSES = Object.keys(SAID);

export class Spoken {
  /** Connects all but those who come later. */
  static async gather(cluster) {
    const spoken = new Spoken();
    spoken.cluster = cluster;
    const prefix = fresh('spoken');
    const names = Array.from({ length: SPEAK + LEAVE + STAY + COME }, (_, n) => `${prefix}-${n}`);
    // Where they belong does not change while nobody can change the map.
    const users = (await routes(cluster, names)).map((route) => ({ route, status: 'offline', text: undefined }));
    const take = (many) => users.splice(0, many);
    spoken.speakers = take(SPEAK);
    spoken.leavers = take(LEAVE);
    spoken.stayers = take(STAY);
    spoken.comers = take(COME);
    spoken.all = [spoken.speakers, spoken.leavers, spoken.stayers, spoken.comers].flat();
    await paced(spoken.all.filter((user) => !spoken.comers.includes(user)), 2, (user) => spoken.comes(user));
    spoken.stayers.forEach((stayer, n) => {
      const { userId } = spoken.leavers[n].route;
      stayer.told = [];
      stayer.socket.heard = (message) => stayer.told.push(...(message.users ?? []));
      stayer.socket.send({ type: 'watch', users: [userId], id: 1 });
    });
    return spoken;
  }

  async comes(user) {
    user.socket = await session(this.cluster, user.route);
    user.status = 'online';
  }

  async says(user, status, text) {
    user.socket.send({ type: 'status', ...SAID[status], text, id: 1 });
    await user.socket.message('ok', (message) => message.type === 'ok');
    Object.assign(user, { status, text: text || undefined });
  }

  /** All say what they have to say, within so many seconds. */
  async speak(seconds) {
    await Promise.all([
      paced(this.leavers, seconds / 4, async (user) => {
        user.socket.send({ type: 'bye' });
        await user.socket.end();
        Object.assign(user, { status: 'offline', left: true });
      }),
      paced(this.comers, seconds / 4, (user) => this.comes(user)),
      paced([0, 1, 2].flatMap(() => this.speakers), seconds, (user, n) => {
        const round = Math.floor(n / SPEAK);
        return this.says(user, STATUSES[(n + round) % 3], n % 2 ? `round ${round}` : '');
      }),
    ]);
  }

  /** The users of whom the store has something else than they said, each in words. */
  async differing() {
    const records = await this.cluster.stored(this.all.map((user) => user.route.userId));
    return this.all.flatMap((user, n) => {
      const record = records[n];
      const devices = user.status === 'offline' ? 0 : 1;
      const same = record.user === user.route.userId && record.status === user.status
        && record.text === user.text && record.devices === devices;
      const said = `${user.status} ${user.text ?? ''}`;
      return same ? [] : [`${user.route.node}: ${JSON.stringify(record)} instead of ${said}`];
    });
  }

  /** How long after `back` the store is exact, seconds. */
  async exact(back) {
    for (let why; ; await sleep(0.1)) {
      try {
        const differing = await this.differing();
        if (differing.length === 0) return now() - back;
        why = `${differing.length} of ${this.all.length} users differ, for example ${differing[0]}`;
      } catch (error) {
        why = error.message;
      }
      if (now() - back > PATIENCE) throw new Error(`the store is not exact after ${PATIENCE} s: ${why}`);
    }
  }

  /** How many of those who left were not shown offline once, and for good. */
  ghosts() {
    const right = (told) => told.filter(({ status }) => status === 'offline').length === 1
      && told.at(-1).status === 'offline';
    return this.stayers.filter(({ told }) => !right(told)).length;
  }

  /** Sessions that ended though their users did not leave. */
  lost() {
    return this.all.filter((user) => user.socket?.closed && !user.left).length;
  }

  close() {
    for (const user of this.all) user.socket?.destroy();
  }
}
