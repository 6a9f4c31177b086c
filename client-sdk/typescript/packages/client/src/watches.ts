// The users that the application watches: who wants them, what is known of each, and what the
// server has still to be told. It never shows a version that is older than one it has shown.
import type { Message, UserPresence } from './types.js';

/** One call of `watch`. */
export interface Watch {
  readonly users: readonly string[];
  call: (users: readonly UserPresence[], changed: readonly UserPresence[]) => void;
}

interface Entry {
  wantedBy: Set<Watch>;
  record?: UserPresence;
  /** A server has confirmed the record since somebody wants the user. */
  shown: boolean;
  /** The connection was asked to watch the user. */
  asked: boolean;
  /** The application was told that there is no room for the user. */
  overTold: boolean;
  /** From when on a server is believed that it never saw the user, of whom there is a record; 0 when none says so. */
  believeAt: number;
}

/** Users that nobody watches any more and whose newest record is still known. */
const KEPT = 1000;
/**
 * How long a user whom the server does not know any more is shown as before, ms: a store that was lost is written
 * again by then.
 */
const DOUBT = 20_000;

export type Watches = ReturnType<typeof createWatches>;

export function createWatches() {
  const entries = new Map<string, Entry>();
  const kept = new Map<string, UserPresence>();
  const news = new Map<Watch, UserPresence[]>();
  const toAsk = new Set<string>();
  const toDrop = new Set<string>();
  /** Of how many users a message may be: half of what was refused as a whole, until none wait. */
  let width = Infinity;
  let askedCount = 0;
  /** When users in doubt are asked for again: the newest of them has been long enough by then. */
  let recheckAt = Infinity;

  const get = (user: string): UserPresence | undefined => {
    const entry = entries.get(user);
    return entry?.shown ? entry.record : undefined;
  };

  const tell = (watch: Watch, record?: UserPresence): void => {
    const records = news.get(watch) ?? [];
    if (record) records.push(record);
    news.set(watch, records);
  };

  /** Nobody wants the user: what is known stays for a while, as what must not be gone back from. */
  const leave = (user: string): void => {
    const { record } = entries.get(user)!;
    entries.delete(user);
    if (record) kept.set(user, record);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value!);
  };

  const ask = (user: string): void => {
    if (!toAsk.size) width = Infinity;
    toAsk.add(user);
  };

  const unask = (user: string): void => {
    entries.get(user)!.asked = false;
    askedCount--;
  };

  /** A new connection has been asked for nothing yet. */
  const renew = (): void => {
    toAsk.clear();
    toDrop.clear();
    askedCount = 0;
    for (const [user, entry] of entries) {
      entry.asked = false;
      if (entry.wantedBy.size) ask(user);
      else leave(user);
    }
  };

  return {
    get,
    renew,

    add(watch: Watch): void {
      for (const user of watch.users) {
        let entry = entries.get(user);
        if (!entry) {
          entries.set(user, (entry = { wantedBy: new Set(), record: kept.get(user), shown: false, asked: false, overTold: false, believeAt: 0 }));
          kept.delete(user);
        }
        entry.wantedBy.add(watch);
        if (entry.shown) tell(watch);
        if (!toDrop.delete(user) && !entry.asked) ask(user);
      }
    },

    remove(watch: Watch): void {
      news.delete(watch);
      for (const user of watch.users) {
        const entry = entries.get(user);
        if (!entry?.wantedBy.delete(watch) || entry.wantedBy.size) continue;
        toAsk.delete(user);
        if (entry.asked) toDrop.add(user);
        else leave(user);
      }
    },

    forget(): void {
      entries.clear();
      kept.clear();
      news.clear();
      renew();
    },

    /** Whether the server has to be told something, when so many watches are allowed. */
    waits: (limit = Infinity): boolean => toDrop.size > 0 || (toAsk.size > 0 && askedCount < limit),

    /** The next message, of at most so many users that `fits` accepts it. */
    next(most: number, limit: number, fits: (message: Message) => boolean): Message {
      if (toDrop.size) {
        const message = shrunk([...toDrop].slice(0, most), (users) => ({ type: 'unwatch', users }), fits);
        for (const user of message.users as string[]) {
          toDrop.delete(user);
          unask(user);
          leave(user);
        }
        return message;
      }
      const users = [...toAsk].slice(0, Math.min(most, width, limit - askedCount));
      const message = shrunk(
        users,
        (users) => {
          // Any text may be a user's name.
          const known: Record<string, number> = Object.create(null);
          for (const user of users) {
            const { record } = entries.get(user)!;
            if (record) known[user] = record.version;
          }
          return { type: 'watch', users, known };
        },
        fits,
      );
      for (const user of message.users as string[]) {
        toAsk.delete(user);
        entries.get(user)!.asked = true;
        askedCount++;
      }
      return message;
    },

    /** Users that wait for room, if so many are watched, and of whom that was not said yet. */
    beyond: (limit: number): string[] =>
      askedCount < limit
        ? []
        : [...toAsk].filter((user) => {
            const entry = entries.get(user)!;
            return !entry.overTold && (entry.overTold = true);
          }),

    /** The server did nothing of a message: asked again later, or by halves, or (a single user) not at all. */
    undone(users: readonly string[], later: boolean): void {
      const again = later || users.length > 1;
      for (const user of users) {
        if (!entries.get(user)?.asked) continue;
        unask(user);
        if (toDrop.delete(user)) leave(user);
        else if (again) ask(user);
      }
      if (!later && again) width = Math.min(width, users.length >> 1);
    },

    /** When `recheck` has something to do. */
    due: (): number => recheckAt,

    /** Asks again for users that have been in doubt for long. */
    recheck(now: number): void {
      if (now < recheckAt) return;
      recheckAt = Infinity;
      for (const [user, entry] of entries) {
        if (!entry.believeAt || !entry.asked || !entry.wantedBy.size) continue;
        unask(user);
        ask(user);
      }
    },

    /** Takes records; of the users `asked` all is known now. A version of 0 means that the server never saw the user. */
    learn(records: readonly UserPresence[], now: number, asked: readonly string[] = []): void {
      const show = (entry: Entry): void => {
        entry.shown = true;
        for (const watch of entry.wantedBy) tell(watch, entry.record);
      };
      for (const record of records) {
        const entry = entries.get(record.user);
        if (!entry?.asked) continue;
        const known = entry.record;
        entry.record = record;
        if (known && known.version >= record.version) {
          entry.record = known;
          if (record.version || known.status === 'offline') continue;
          entry.believeAt ||= recheckAt = now + DOUBT;
          if (now < entry.believeAt) continue;
          // The version stays: what comes is newer than it.
          entry.record = { ...record, version: known.version };
        }
        entry.believeAt = 0;
        show(entry);
      }
      for (const user of asked) {
        const entry = entries.get(user);
        if (entry?.asked && entry.record && !entry.shown) show(entry);
      }
    },

    hasNews: (): boolean => news.size > 0,

    /** Whom to tell of which changes since the last time. */
    takeNews(): [Watch, UserPresence[]][] {
      const all = [...news];
      news.clear();
      return all;
    },
  };
}

/** The message of as many of the users as fit, found by halving; one always counts as fitting. */
export function shrunk(users: string[], make: (users: string[]) => Message, fits: (message: Message) => boolean): Message {
  for (;;) {
    const message = make(users);
    if (users.length < 2 || fits(message)) return message;
    users = users.slice(0, (users.length + 1) >> 1);
  }
}
