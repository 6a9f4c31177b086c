// The client's decisions: events and the time in, orders to its shell out. It has no socket, timer,
// clock or random source of its own.
import { createRequests } from './requests.js';
import { claims } from './token.js';
import { Activity, ConnectionState, Message, PresenceError, Self, StateName, UserPresence } from './types.js';
import { createWatches } from './watches.js';

/** What the core tells its shell to do; jobs and connections are numbers that come back in the answers. */
export interface Shell {
  askToken(job: number): void;
  askRoute(job: number, user: string): void;
  diagnose(user: string, address: string): void;
  dial(connection: number, address: string): void;
  send(connection: number, message: Message): void;
  hangUp(connection: number, code: number, reason?: string): void;
  emit(event: 'state' | 'self' | 'error', value: unknown): void;
}

/** How the core is set up; times in ms. */
export interface Setup {
  autoAway: number;
  heartbeat: number;
  random: () => number;
  /** The bytes of a message on the wire. */
  size: (message: Message) => number;
}

interface Link {
  readonly n: number;
  readonly address: string;
  readonly withToken: string;
  upgraded: boolean;
  welcomedAt: number;
  /** What the server was told that this session does. */
  told: Activity;
  sentAt: number;
  heardAt: number;
  /** The ping that is out, and until when its pong has to come. */
  pingId: number;
  pongBy: number;
  /** A pong was late once because the timer was: that is no fault of the connection. */
  excused: boolean;
}

/**
 * Back-off: random times the base doubled with each failure, up to a cap that is low for the first attempts: they
 * are over before a user's time of grace is (15 s by default), and a node that crashed is replaced in that time.
 */
const BASE = 500;
const CAP = 5_000;
const SOON = 10;
const LATER_CAP = 20_000;
/** How long a token function may take; and a route look-up, a connection up to its `welcome`, a pong. */
const TOKEN_WAIT = 30_000;
const WAIT = 10_000;
/** How long a pong may take when there is reason to doubt the connection. */
const PROBE_WAIT = 3_000;
/** A connection that lived so long was a good one: back-off begins anew. */
const STABLE = 10_000;
/** How often the clock is looked at, and how late a timer may be. */
const LOOK = 10_000;
const LATE = 5_000;
/** Redirects in a row that are followed at once. */
const HOPS = 3;
/** Connections in a row whose upgrade was refused, after which the client asks why. */
const REFUSALS = 3;
const NEVER = Infinity;
/** Close codes that the same client would get again. */
const FINAL = [1002, 1003, 1007, 1009, 4403, 4409];
/** Closed by us, and no farewell: the user has its time of grace. */
const ASIDE = 4000;

export type Core = ReturnType<typeof createCore>;

export function createCore(shell: Shell, { autoAway, heartbeat, random, size }: Setup) {
  const complain = (error: PresenceError): void => shell.emit('error', error);
  const watches = createWatches();
  const requests = createRequests(watches, size, random, complain);
  let state: ConnectionState = { state: 'disconnected' };
  let self: Self | undefined;
  /** The connection in use, and the one in the making. */
  let link: Link | undefined;
  let next: Link | undefined;
  /** What a connection in the making, or a new token, waits for. Answers to other jobs are late ones. */
  let job = 0;
  let jobIs: '' | 'token' | 'refresh' | 'route' | 'dial' = '';
  let jobBy = NEVER;
  let jobExcused = false;
  let count = 0;
  let token = '';
  let tokenEnds = NEVER;
  /** Whether a server has welcomed the token; and tokens that none has, in a row. */
  let proven = false;
  let badTokens = 0;
  let badToken = '';
  let user = '';
  /** Where to connect; and where it was, for when nobody can say. */
  let address = '';
  let lastAddress = '';
  let attempt = 0;
  let hops = 0;
  let refusals = 0;
  let retryAt = NEVER;
  let refreshAt = NEVER;
  let refreshes = 0;
  let wanted = false;
  let aside = false;
  let activeAt = 0;
  let chosen: Activity | undefined;
  let lookedAt = NEVER;

  const become = (name: StateName, reason?: PresenceError): void => {
    if (state.state === name && state.reason === reason) return;
    state = { state: name, reason };
    shell.emit('state', state);
  };

  const activity = (now: number): Activity => chosen ?? (autoAway && now - activeAt >= autoAway ? 'away' : 'online');

  const idle = (): void => {
    job = 0;
    jobIs = '';
    jobBy = NEVER;
    jobExcused = false;
  };

  const begin = (is: typeof jobIs, by: number): number => {
    jobIs = is;
    jobBy = by;
    return (job = ++count);
  };

  /** Gives up what is in the making. */
  const abandon = (code = ASIDE): void => {
    if (next) shell.hangUp(next.n, code);
    next = undefined;
    retryAt = NEVER;
    idle();
  };

  /** No connection, and none in the making. */
  const end = (code: number): void => {
    abandon(code);
    if (link) shell.hangUp(link.n, code);
    link = undefined;
    requests.lost();
    wanted = aside = false;
    refreshAt = NEVER;
  };

  const fail = (error: PresenceError): void => {
    end(1000);
    requests.fail(error);
    become('failed', error);
    complain(error);
  };

  /** Full jitter: those who lost a node do not come back in one moment. */
  const delay = (attempt: number): number => random() * Math.min(attempt < SOON ? CAP : LATER_CAP, BASE * 2 ** attempt);

  const later = (error: PresenceError, now: number, least = 0): void => {
    if (!link) become('connecting', error);
    retryAt = now + Math.max(least, delay(attempt++));
  };

  // -- a connection is made -----------------------------------------------------------------------

  const dial = (to: string, now: number): void => {
    address = lastAddress = to;
    const n = begin('dial', now + WAIT);
    next = {
      n, address, withToken: token, upgraded: false, welcomedAt: 0, told: 'online', sentAt: now, heardAt: now, pingId: 0, pongBy: NEVER, excused: false,
    };
    shell.dial(n, address);
  };

  /** There is a token. */
  const proceed = (now: number): void => {
    if (address) dial(address, now);
    else shell.askRoute(begin('route', now + WAIT), user);
  };

  /** Begins a connection, beside the one there is if there is one. */
  const go = (now: number): void => {
    abandon();
    if (!link) become('connecting', state.reason);
    if (!token || token === badToken || tokenEnds - now < LATE) shell.askToken(begin('token', now + TOKEN_WAIT));
    else proceed(now);
  };

  const noToken = (error: PresenceError, refresh: boolean, now: number): void => {
    if (!refresh) return later(error, now);
    complain(error);
    refreshAt = now + delay(++refreshes);
  };

  /** A token that was never welcomed was refused; two in a row are enough. */
  const tokenRefused = (error: PresenceError, refresh: boolean, now: number): void => {
    badToken = token;
    if (++badTokens < 2) return noToken(error, refresh, now);
    fail(new PresenceError(error.code, `${error.message}, twice: check its secret, algorithm, issuer and audience`));
  };

  const welcomed = (from: Link, message: Message, now: number): void => {
    const { user, session, node, mode, text, expires = NEVER, limits } = message as Message & Self & { expires?: number; limits?: {} };
    proven = true;
    badToken = '';
    badTokens = refusals = refreshes = 0;
    requests.limit(limits);
    // Of the same session, one without a mode only says that the store does not answer yet.
    if (from !== link || mode) shell.emit('self', (self = { user, session, node, mode, text }));
    const left = expires - now;
    // With a clock that is wrong it is left to `expiring`.
    refreshAt = left > 0 ? expires - Math.min(left / 2, 60_000 + 30_000 * random()) : NEVER;
    if (from === link) return;
    const old = link;
    link = from;
    link.welcomedAt = now;
    next = undefined;
    retryAt = NEVER;
    idle();
    requests.lost();
    watches.renew();
    flush(now);
    if (old) shell.hangUp(old.n, 1000);
    become('connected');
  };

  // -- and lost -------------------------------------------------------------------------------------

  const gone = (code: number, words: string, welcomed: boolean, now: number): void => {
    const error = new PresenceError(code, words || `closed with ${code}`);
    if (FINAL.includes(code)) return fail(error);
    // While a move is under way its connection is what counts.
    if (welcomed && (jobIs || retryAt < NEVER)) return become('connecting', error);
    if (code === 4401) {
      if (!proven) return tokenRefused(error, false, now);
      // It has ended, or its key was taken back: the next one may be good.
      badToken = token;
      if (!hops++) return go(now);
    }
    if (!welcomed || code === 4421 || code === 1001 || code === 1012 || code === 1013) address = '';
    if (code === 4421 || code === 1012) {
      if (hops++ < HOPS) {
        if (code === 4421 && /^wss?:/.test(words)) address = words;
        become('connecting', error);
        return go(now);
      }
    }
    later(error, now, code === 4429 ? WAIT / 2 : 0);
  };

  const loseLink = (now: number): void => {
    if (now - link!.welcomedAt >= STABLE) attempt = hops = 0;
    link = undefined;
    refreshAt = NEVER;
    requests.lost();
    // What a refresh brings was meant for that connection.
    if (jobIs === 'refresh') idle();
  };

  const loseNext = (now: number, code: number, words: string): void => {
    const { address, upgraded } = next!;
    next = undefined;
    idle();
    if (!upgraded && ++refusals === REFUSALS) shell.diagnose(user, address);
    gone(code, words, false, now);
  };

  const closed = (n: number, code: number, words: string, now: number): void => {
    if (link?.n === n) {
      loseLink(now);
      gone(code, words, true, now);
    } else if (next?.n === n) loseNext(now, code, words);
  };

  // -- time -----------------------------------------------------------------------------------------

  const flush = (now: number): void => {
    const { n } = link!;
    if (requests.flush((message) => shell.send(n, message), now)) link!.sentAt = now;
  };

  const ping = (wait: number, now: number): void => {
    if (link!.pongBy === NEVER) {
      link!.pingId = requests.id();
      shell.send(link!.n, { type: 'ping', id: link!.pingId });
      link!.sentAt = now;
    }
    link!.pongBy = Math.min(link!.pongBy, now + wait);
  };

  /** Something may have happened while nobody looked: one ping, or a connection at once. */
  const doubt = (now: number): void => {
    if (!wanted || aside) return;
    lookedAt = now;
    if (link) {
      if (link.pongBy <= now && !link.excused) {
        link.excused = true;
        link.pongBy = NEVER;
      }
      ping(PROBE_WAIT, now);
    } else if (!jobIs) retryAt = now;
  };

  const heartbeatAt = (): number => Math.min(link!.sentAt, link!.heardAt) + heartbeat;

  const deadline = (): number => {
    if (!wanted || aside) return NEVER;
    let at = Math.min(lookedAt + LOOK, retryAt, jobBy, jobIs ? NEVER : refreshAt);
    if (link) {
      at = Math.min(at, link.pongBy, requests.due(), watches.due(), link.pongBy < NEVER ? NEVER : heartbeatAt());
      if (link.told === 'online' && autoAway && !chosen) at = Math.min(at, activeAt + autoAway);
    }
    return at;
  };

  const tooLong = (now: number): void => {
    if (next) {
      shell.hangUp(next.n, ASIDE);
      return loseNext(now, 1006, `${next.address} did not answer in time`);
    }
    const was = jobIs;
    idle();
    if (was === 'route') gotNoRoute(new PresenceError('route', 'the route look-up did not answer in time'), now);
    else noToken(new PresenceError('token', `the token function did not answer in time`), was === 'refresh', now);
  };

  /** The nodes serve on when no coordinator answers. */
  const gotNoRoute = (error: PresenceError, now: number): void => {
    if (lastAddress) dial(lastAddress, now);
    else later(error, now);
  };

  return {
    watches,
    requests,
    state: (): ConnectionState => state,
    self: (): Self | undefined => self,
    deadline,
    closed,
    doubt,

    connect(now: number): void {
      if (wanted) return;
      wanted = true;
      attempt = hops = refusals = badTokens = 0;
      badToken = '';
      activeAt = lookedAt = now;
      become('connecting');
      // In the next turn, so that whoever disconnects in this one has opened nothing.
      retryAt = now;
    },

    /** Says goodbye and forgets everything. */
    disconnect(): void {
      if (link) shell.send(link.n, { type: 'bye' });
      end(1000);
      watches.forget();
      requests.fail(new PresenceError('closed', 'disconnect() was called'));
      self = chosen = undefined;
      token = badToken = user = address = lastAddress = '';
      become('disconnected');
    },

    /** What this session does; `undefined` for what its idle time says, from now on. */
    choose(activity: Activity | undefined, now: number): void {
      chosen = activity;
      activeAt = now;
    },

    /** The user did something. */
    touched(now: number): void {
      activeAt = now;
    },

    /** The page runs no script for a while, and has no connection in that time. */
    putAside(): void {
      if (!wanted || aside) return;
      end(ASIDE);
      wanted = aside = true;
      become('connecting', new PresenceError('aside', 'the page is kept aside'));
    },

    back(now: number): void {
      if (!aside) return doubt(now);
      aside = false;
      lookedAt = now;
      go(now);
    },

    /** The token function's answer, or its error, which may be `final`. */
    gotToken(from: number, given: unknown, error: string, final: boolean, now: number): void {
      if (from !== job) return;
      const refresh = jobIs === 'refresh';
      const failed = (words: string): void => noToken(new PresenceError('token', `the token function ${words}`), refresh, now);
      idle();
      if (final) return fail(new PresenceError('not_allowed', `the token function says: ${error}`));
      if (error) return failed(`failed: ${error}`);
      const claimed = claims(given);
      if (!claimed) return failed('gave no JWT with a "sub"');
      if (given === badToken) return tokenRefused(new PresenceError(4401, 'the token function gave the refused token'), refresh, now);
      if (refresh && given === token) return failed('gave the token that is about to end');
      if (user && claimed.sub !== user) {
        return fail(new PresenceError('wrong_user', `the token is of ${claimed.sub}, not ${user}: disconnect() first`));
      }
      user = claimed.sub;
      token = given as string;
      tokenEnds = claimed.exp ? claimed.exp * 1000 : NEVER;
      proven = false;
      if (refresh) shell.send(link!.n, { type: 'auth', token });
      else proceed(now);
    },

    /** Where the user connects; or why nobody says, which may be `final`. */
    gotRoute(from: number, to: string, words: string, final: boolean, now: number): void {
      if (from !== job) return;
      idle();
      const error = new PresenceError('route', words);
      if (to) dial(to, now);
      else if (final) fail(error);
      else gotNoRoute(error, now);
    },

    /** Why connections are refused. */
    diagnosed(words: string): void {
      if (link || !wanted) return;
      const error = new PresenceError('refused', `${REFUSALS} WebSockets were refused: ${words}`);
      become('connecting', error);
      complain(error);
    },

    opened(n: number, protocol: boolean, now: number): void {
      if (next?.n !== n) return;
      // Firefox opens a connection whose server named no subprotocol.
      if (!protocol) {
        shell.hangUp(n, ASIDE);
        return loseNext(now, 1006, `${address} names no subprotocol: is it online-status?`);
      }
      next.upgraded = true;
      next.told = activity(now);
      next.sentAt = next.heardAt = now;
      shell.send(n, { type: 'auth', token: next.withToken, status: next.told, alive: Math.ceil(heartbeat / 400) });
    },

    heard(n: number, message: Message, now: number): void {
      const { type } = message;
      const from = link?.n === n ? link : next?.n === n ? next : undefined;
      if (from) from.heardAt = now;
      // Of a connection that was replaced too: a record is as good as any.
      if (type === 'presence') watches.learn(message.users as UserPresence[], now);
      else if (!from) return;
      else if (type === 'welcome') welcomed(from, message, now);
      else if (type === 'pong') {
        if (message.id === from.pingId) {
          from.pongBy = NEVER;
          from.excused = false;
        }
      } else if (type === 'move') {
        if (from !== link) return;
        address = message.address as string;
        go(now);
      } else if (type === 'expiring') {
        // Not all clients in the same moment.
        refreshAt = Math.min(refreshAt, now + (message.in as number) * 250 * (1 + random()));
      } else if (type === 'error') {
        const error = new PresenceError(message.code as string, message.message as string);
        if (error.code === 'wrong_user') fail(error);
        else if (error.code === 'bad_token') tokenRefused(error, true, now);
        else requests.answered(message, now, error);
      } else requests.answered(message, now);
    },

    /** Does what is due; called at any time, for instance after the application did something. */
    tick(now: number): void {
      if (!wanted || aside) return;
      // The machine slept, or the page was frozen.
      const late = now - Math.max(deadline(), lookedAt) > LATE;
      lookedAt = now;
      if (late) {
        if (jobBy <= now && !jobExcused) {
          jobExcused = true;
          jobBy = now + PROBE_WAIT;
        }
        doubt(now);
      }
      if (link && link.pongBy <= now) {
        shell.hangUp(link.n, ASIDE);
        loseLink(now);
        become('connecting', new PresenceError('silent', 'no answer to a ping'));
        if (!jobIs) retryAt = now;
      }
      if (jobBy <= now) tooLong(now);
      if (retryAt <= now) go(now);
      if (!link) return;
      if (refreshAt <= now && !jobIs) {
        refreshAt = NEVER;
        shell.askToken(begin('refresh', now + TOKEN_WAIT));
      }
      watches.recheck(now);
      if (activity(now) !== link.told) requests.set({ status: (link.told = activity(now)) });
      flush(now);
      if (link.pongBy === NEVER && heartbeatAt() <= now) ping(WAIT, now);
    },
  };
}
