/**
 * Who is online: the client of online-status.
 *
 * @module @online-status/client
 */
// The shell: WebSockets, fetch, timers and the page's events around the core, which decides.
import { type Core, createCore, type Link } from './core.js';
import { json } from './json.js';
import { listen } from './page.js';
import type { Done } from './requests.js';
import { diagnose, look } from './route.js';
import {
  Activity, Clock, Codec, ConnectionState, Events, Message, Mode, NotAllowed, Options, Page, PresenceError, Self, Socket, Target, UserPresence,
} from './types.js';
import type { Watch } from './watches.js';

export { NotAllowed, PresenceError };
export type { Activity, Clock, Codec, ConnectionState, Events, Message, Mode, Options, Page, Self, Socket, Target, UserPresence };
export type { StateName, Status } from './types.js';

/** Connects and stays connected: `createPresence(options)`, and `connect()` of what it gives. */
export function connect(options: Options): Presence {
  const presence = createPresence(options);
  presence.connect();
  return presence;
}

/** A user's client: one connection, the users it watches, and what the user shows. */
export interface Presence {
  /** The state of the connection, and why. The same object until it changes. */
  readonly state: ConnectionState;
  /** The client's own user, once it has been connected. */
  readonly self: Self | undefined;
  /** Starts; again after `disconnect()`, or when it had failed. */
  connect(): void;
  /**
   * Says goodbye, so that the user is offline at once unless another device is there, and forgets the token, all
   * watches and what is known of users. A token function that answers later is not heard.
   */
  disconnect(): void;
  /** Resolves when connected; rejects with the reason when it has failed or is disconnected. */
  ready(): Promise<void>;
  /**
   * Watches users until the function that it returns is called. `call` gets all of them that are known, in the
   * order given, and those that changed. Several calls may watch the same user: the server is asked once.
   *
   * @throws {@link PresenceError} with the code `bad_user` for a name that no user can have.
   */
  watch(users: Iterable<string>, call?: (users: readonly UserPresence[], changed: readonly UserPresence[]) => void): () => void;
  /** A watched user's record, once it is known. */
  get(user: string): UserPresence | undefined;
  /** Asks once, without watching. Waits for a connection. */
  query(users: Iterable<string>): Promise<readonly UserPresence[]>;
  /** What the person chose, for all devices. Waits for a connection. */
  setMode(mode: Mode): Promise<void>;
  /** The person's own words, at most 128 bytes; "" for none. Waits for a connection. */
  setText(text: string): Promise<void>;
  /** What this session reports; without an argument what `autoAway` says, beginning now. */
  setActivity(activity?: Activity): void;
  /** The user did something: for `autoAway` where no page tells. */
  active(): void;
  /** Listens to an event; the function that it returns ends that. */
  on<Name extends keyof Events>(event: Name, listener: (value: Events[Name]) => void): () => void;
}

const WALL: Clock = {
  now: () => Date.now(),
  setTimeout: (call, ms) => setTimeout(call, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
};

/** Bytes of a user's own words (protocol). */
const MOST_TEXT = 128;

/** A client that opens nothing until its `connect()` is called. */
export function createPresence(options: Options): Presence {
  const { heartbeat = 60, codec = json, clock = WALL, random = Math.random, page = browserPage(), autoAway = page ? 300 : 0 } = options;
  const WebSocket: Options['WebSocket'] = options.WebSocket ?? (globalThis as any).WebSocket;
  if (!/^(https?:\/)?\//.test(options.route) || typeof options.token !== 'function') throw new TypeError('connect() needs a route (https://…) and a token function');
  if (!(heartbeat >= 5 && heartbeat <= 240 && autoAway >= 0)) throw new RangeError('heartbeat: 5 to 240 seconds; autoAway: seconds, or 0');

  const listeners: Partial<Record<string, Set<(value: any) => void>>> = {};
  let queue: [keyof Events, unknown][] = [];
  let timer: unknown;
  let timerAt = Infinity;
  let unlisten: (() => void) | undefined;

  // A clock that is set back stands still instead.
  let latest = 0;
  let ahead = 0;
  const now = (): number => {
    const told = clock.now() + ahead;
    if (told < latest) ahead += latest - told;
    return (latest = Math.max(told, latest));
  };

  const arm = (): void => {
    const at = core.watches.hasNews() ? 0 : core.deadline();
    if (at === timerAt) return;
    clock.clearTimeout(timer);
    timerAt = at;
    if (at < Infinity) timer = clock.setTimeout(tick, Math.max(0, at - now()));
  };
  /** Something happens: the core does what it makes of it, and the application is told what is new. */
  const happen = (event: () => void): void => {
    core.setTime(now());
    event();
    for (; queue.length; ) {
      const [[event, value]] = queue.splice(0, 1) as [[keyof Events, any]];
      const all = listeners[event];
      if (event === 'error' && !all?.size) console.error(`online-status: ${value.message}`);
      all?.forEach((listener) => guarded(listener, value));
    }
    for (const [{ users, call }, changed] of core.watches.takeNews()) {
      const known = users.map((user) => core.watches.get(user)!).filter(Boolean);
      // None, if a callback has disconnected.
      if (known.length) guarded(call, known, changed);
    }
    arm();
  };
  /** Something happens after which what is due is done at once. */
  const act = (event: () => void): void =>
    happen(() => {
      event();
      core.tick();
    });
  const tick = (): void => {
    clock.clearTimeout(timer);
    timerAt = Infinity;
    happen(core.tick);
  };
  /** What the application does in one turn goes out in the next. */
  const poke = (): void => {
    core.requests.poke(now());
    arm();
  };

  const hangUp = ({ socket }: Link, code?: number): void => socket?.close(code);

  const core: Core = createCore(
    {
      async askToken(job) {
        let token: unknown;
        let error = '';
        let final = false;
        try {
          // Not within the call that asks for it.
          await 0;
          token = await options.token();
        } catch (thrown) {
          error = String(thrown);
          final = /^(\w*: )?not.?allowed/i.test(error);
        }
        happen(() => core.gotToken(job, token, error, final));
      },
      async askRoute(job, user) {
        const answer = await look(options, user);
        happen(() => core.gotRoute(job, ...answer));
      },
      async diagnose(user, address) {
        const words = await diagnose(options, user, address);
        happen(() => core.diagnosed(words));
      },
      dial(link) {
        const closed = (code: number, reason: string): void => happen(() => core.closed(link, code, reason));
        let socket: Socket;
        try {
          socket = new WebSocket!(link.address, [codec.protocol]);
        } catch (error) {
          // No WebSocket's address, or one that is not secure in a page that is.
          clock.setTimeout(() => closed(1006, String(error)), 0);
          return;
        }
        link.socket = socket;
        socket.binaryType = 'arraybuffer';
        socket.onopen = () => happen(() => core.opened(link, socket.protocol === codec.protocol));
        socket.onmessage = ({ data }) =>
          happen(() => {
            try {
              core.heard(link, codec.decode(data));
            } catch {
              hangUp(link);
              core.closed(link, 1006, 'not a message of the protocol');
            }
          });
        // A close event follows and says more.
        socket.onerror = () => {};
        socket.onclose = ({ code, reason }) => closed(code, reason);
      },
      send: ({ socket }, message) => socket?.send(codec.encode(message)),
      hangUp,
      emit: (event, value) => void queue.push([event, value]),
    },
    { autoAway: autoAway * 1000, heartbeat: heartbeat * 1000, secure: /^https:/.test(options.route), random, size: (message) => bytes(codec.encode(message)) },
  );

  const on: Presence['on'] = (event, listener) => {
    const all = (listeners[event] ??= new Set());
    all.add(listener);
    return () => void all.delete(listener);
  };
  const ended = (): PresenceError => core.state().reason ?? new PresenceError('closed', 'disconnected: call connect()');
  const ask = <T>(begin: (done: Done) => void): Promise<T> =>
    new Promise((resolve, reject) => {
      if (!/^conn/.test(core.state().state)) return reject(ended());
      begin((error, users) => (error ? reject(error) : resolve(users as T)));
      poke();
    });

  return {
    get state() {
      return core.state();
    },
    get self() {
      return core.self();
    },
    on,
    get: core.watches.get,
    connect() {
      if (!WebSocket) throw new TypeError('no WebSocket: use Node.js 22, or give connect() one, as `{ WebSocket }` of the package ws');
      unlisten ??= page ? listen(page, core, now, act) : undefined;
      happen(core.connect);
    },
    disconnect() {
      unlisten?.();
      unlisten = undefined;
      happen(core.disconnect);
    },
    ready: () =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const { state } = core.state();
          if (state === 'connecting') return;
          off();
          if (state === 'connected') resolve();
          else reject(ended());
        };
        const off = on('state', look);
        look();
      }),
    watch(users, call = () => {}) {
      const watch: Watch = { users: names(users), call };
      core.watches.add(watch);
      poke();
      return () => {
        core.watches.remove(watch);
        watch.call = () => {};
        poke();
      };
    },
    async query(users) {
      const list = names(users);
      const parts: Promise<UserPresence[]>[] = [];
      for (let at = 0; at < list.length; ) parts.push(ask((done) => (at += core.requests.query(list.slice(at), done))));
      return (await Promise.all(parts)).flat();
    },
    setMode: (mode) => ask((done) => core.requests.set({ mode }, done)),
    setText: (text) =>
      ask((done) => {
        if (bytes(text) > MOST_TEXT) done(new PresenceError('text_too_long', `a text has at most ${MOST_TEXT} bytes`));
        else core.requests.set({ text }, done);
      }),
    setActivity(activity) {
      act(() => core.choose(activity));
    },
    active() {
      act(core.touched);
    },
  };
}

/** An application's own error is its own, and keeps nobody else from hearing. */
function guarded(call: (...values: any[]) => void, ...values: unknown[]): void {
  try {
    call(...values);
  } catch (error) {
    setTimeout(() => {
      throw error;
    });
  }
}

function browserPage(): Page | null {
  const { window, document } = globalThis as any;
  return window?.addEventListener && document?.addEventListener ? { window, document } : null;
}

function bytes(data: string | Uint8Array): number {
  return (typeof data === 'string' ? new TextEncoder().encode(data) : data).length;
}

/** Each name once, if it is one that a user can have. */
function names(users: Iterable<string>): string[] {
  const list = [...new Set(typeof users === 'string' ? [users] : users)];
  for (const user of list) {
    if (typeof user === 'string' && user && !/\p{Cc}|\p{Cs}/u.test(user) && bytes(user) <= 256) continue;
    throw new PresenceError('bad_user', `${JSON.stringify(user)} is no user: 1 to 256 bytes of UTF-8 without control characters`, [user]);
  }
  return list;
}
