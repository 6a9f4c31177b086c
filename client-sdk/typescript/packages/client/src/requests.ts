// What waits to be sent and what waits for its answer: the own state, queries, watches. It keeps the
// server's limits: messages are split by them, and paced.
import { Activity, Message, Mode, PresenceError, UserPresence } from './types.js';
import { shrunk, type Watches } from './watches.js';

/** Changes of the own state. */
export interface Wish {
  status?: Activity;
  mode?: Mode;
  text?: string;
}

/** Told how a call of the application ended. */
export type Done = (error?: PresenceError, users?: readonly UserPresence[]) => void;

/** Takes the server's answer: users, or an error, or neither when the connection is gone. */
type Answer = (users?: UserPresence[], error?: PresenceError, now?: number) => void;

/** A message that the application asked for, and who waits for its answer. */
interface Wanted {
  message: Message;
  done: Done[];
}

/** Questions that may wait for a connection. */
const MOST_WAITING = 1000;
const NEVER = Infinity;

export function createRequests(watches: Watches, size: (message: Message) => number, random: () => number, complain: (error: PresenceError) => void) {
  const asked = new Map<unknown, Answer>();
  let waiting: Wanted[] = [];
  let lastId = 0;
  /** When something was asked for that waits to be sent. */
  let askedAt = NEVER;
  /** Until when watches wait that the server could not answer, and how often in a row it could not. */
  let heldUntil = 0;
  let holds = 0;
  /** The second that messages are counted in, and how many it has. */
  let second = 0;
  let sentIn = 0;
  /** What is taken for granted of a server that names no limits. */
  const limits: Record<string, number> = { message: 16_384, users: 1_000, watches: NEVER, messages: 100 };

  const fits = (message: Message): boolean => size({ ...message, id: Number.MAX_SAFE_INTEGER }) <= limits.message!;

  /** Changes of the own state become one message, in which the newer ones count. */
  const want = (message: Message, done: Done[], older = false): void => {
    const add = older ? 'unshift' : 'push';
    const same = message.type === 'status' && waiting.find((one) => one.message.type === 'status');
    if (!same) return void waiting[add]({ message, done });
    same.message = older ? { ...message, ...same.message } : { ...same.message, ...message };
    same.done[add](...done);
  };

  const refusedWatch = (users: string[], { code, message }: PresenceError, now: number): void => {
    const later = code === 'unavailable';
    askedAt = now;
    if (later) heldUntil = now + Math.min(20_000, 1000 * 2 ** holds++) * (0.5 + random() / 2);
    watches.undone(users, later);
    if (!later && users.length < 2) complain(new PresenceError(code, `${JSON.stringify(users[0])} is not watched: ${message}`, users));
  };

  const tooMany = (): void => {
    const users = watches.beyond(limits.watches!);
    if (users.length) complain(new PresenceError('watch_limit', `${users.length} users are not watched: at most ${limits.watches} are (presence.max_watches)`, users));
  };

  const lost = (): void => {
    // The newest first: what is older goes before it, and gives way to it.
    const all = [...asked.values()].reverse();
    asked.clear();
    for (const answer of all) answer();
    heldUntil = 0;
  };

  return {
    lost,
    set: (members: Wish, ...done: Done[]): void => want({ type: 'status', ...members }, done),
    id: (): number => ++lastId,

    /** The application did something in this turn. */
    poke(now: number): void {
      askedAt = Math.min(askedAt, now);
    },

    /** When there is something to send. */
    due: (): number => (waiting.length ? askedAt : watches.waits() ? Math.max(askedAt, heldUntil) : NEVER),

    limit(told: Record<string, unknown> = {}): void {
      for (const name in limits) if ((told[name] as number) > 0) limits[name] = told[name] as number;
    },

    /** Asks for as many of the users as a message has room for: how many that are. */
    query(users: string[], done: Done): number {
      const message = shrunk(users.slice(0, limits.users), (users) => ({ type: 'query', users }), fits);
      if (waiting.length < MOST_WAITING) want(message, [done]);
      else done(new PresenceError('too_many_waiting', 'too many queries wait'));
      return (message.users as string[]).length;
    },

    /** Sends what waits, as far as the server's rate allows. */
    flush(send: (message: Message) => void, now: number): void {
      if (now - second >= 1000 || now < second) {
        second = now;
        sentIn = 0;
      }
      const ask = (message: Message, answer: Answer): void => {
        const id = ++lastId;
        asked.set(id, answer);
        send({ ...message, id });
        sentIn++;
      };
      const free = (): boolean => sentIn < limits.messages! / 2;
      while (free() && waiting.length) {
        const { message, done } = waiting.shift()!;
        ask(message, (users, error) => {
          if (!users && !error) {
            // What the session does is said when it begins.
            if (done.length) want({ ...message, status: undefined }, done, true);
          } else if (error && !done.length) complain(error);
          else done.forEach((call) => call(error, users));
        });
      }
      while (free() && heldUntil <= now && watches.waits(limits.watches!)) {
        const message = watches.next(limits.users!, limits.watches!, fits);
        const names = message.users as string[];
        ask(message, (users, error, now = 0) => {
          if (message.type === 'unwatch') return;
          if (error) return refusedWatch(names, error, now);
          if (!users) return;
          holds = 0;
          watches.learn(users, now, names);
        });
      }
      tooMany();
      askedAt = !free() ? second + 1000 : heldUntil > now ? heldUntil : NEVER;
    },

    /** An answer; `error` when it is one. */
    answered(message: Message, now: number, error?: PresenceError): void {
      const answer = asked.get(message.id);
      asked.delete(message.id);
      if (answer) answer(error ? undefined : ((message.users ?? []) as UserPresence[]), error, now);
      else if (error) complain(error);
    },

    /** There will be no connection: whoever waits is told. */
    fail(error: PresenceError): void {
      lost();
      const all = waiting.flatMap(({ done }) => done);
      waiting = [];
      for (const done of all) done(error);
    },
  };
}
