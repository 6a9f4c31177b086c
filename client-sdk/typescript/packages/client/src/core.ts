// The client's decisions: the time and events in, orders to its shell out. It has no socket, timer,
// clock or random source of its own.
import { createRequests } from './requests.js';
import { claims } from './token.js';
import { Activity, ConnectionState, Message, PresenceError, Self, Socket, StateName, UserPresence } from './types.js';
import { createWatches } from './watches.js';

/** What the core tells its shell to do; jobs are numbers that come back in the answers. */
export interface Shell {
  askToken(job: number): void;
  askRoute(job: number, user: string): void;
  diagnose(user: string, address: string): void;
  dial(link: Link): void;
  send(link: Link, message: Message): void;
  hangUp(link: Link, code: number): void;
  emit(event: 'state' | 'self' | 'error', value: unknown): void;
}

/** How the core is set up; times in ms. */
export interface Setup {
  autoAway: number;
  heartbeat: number;
  /** The route is asked over TLS: tokens go over no other connection. */
  secure: boolean;
  random: () => number;
  /** The bytes of a message on the wire. */
  size: (message: Message) => number;
}

/** A connection. What is heard of one that is over does not count any more. */
export interface Link {
  /** The shell's. */
  socket?: Socket;
  readonly address: string;
  readonly withToken: string;
  /** What the server was told that this session does; nothing before the upgrade. */
  told?: Activity;
  welcomedAt: number;
  sentAt: number;
  heardAt: number;
  /** The ping that is out, and until when its pong has to come. */
  pingId?: number;
  pongBy: number;
  /** A pong was late once because the timer was: that is no fault of the connection. */
  excused?: boolean;
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
/** Attempts in a row without so much as an address, after which the application is told. */
const TOLD = 3;
const NEVER = Infinity;
/** Close codes that the same client would get again. */
const FINAL = [1002, 1003, 1007, 1009, 4403, 4409];
/** Closed by us, and no farewell: the user has its time of grace. */
const ASIDE = 4000;

export type Core = ReturnType<typeof createCore>;

export function createCore(shell: Shell, { autoAway, heartbeat, secure, random, size }: Setup) {
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
  /** The time of the event that is being dealt with. */
  let now = 0;

  const become = (name: StateName, reason?: PresenceError): void => {
    if (state.state === name && state.reason === reason) return;
    state = { state: name, reason };
    shell.emit('state', state);
  };

  const activity = (): Activity => chosen ?? (autoAway && now - activeAt >= autoAway ? 'away' : 'online');

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
    if (next) shell.hangUp(next, code);
    next = undefined;
    retryAt = NEVER;
    idle();
  };

  /** No connection, and none in the making. */
  const end = (code: number): void => {
    abandon(code);
    if (link) shell.hangUp(link, code);
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

  const later = (error: PresenceError, least = 0): void => {
    if (!link) become('connecting', error);
    retryAt = now + Math.max(least, delay(attempt));
    // For want of a token or a route.
    if (++attempt === TOLD && typeof error.code === 'string') complain(error);
  };

  // -- a connection is made -----------------------------------------------------------------------

  const dial = (to: string): void => {
    if (secure && !/^wss:/.test(to)) {
      address = '';
      return later(new PresenceError('plaintext', `${to} is without TLS, unlike the route: set server.public_url`));
    }
    address = lastAddress = to;
    begin('dial', now + WAIT);
    next = { address, withToken: token, welcomedAt: 0, sentAt: 0, heardAt: 0, pongBy: NEVER };
    shell.dial(next);
  };

  /** There is a token. */
  const proceed = (): void => {
    if (address) dial(address);
    else shell.askRoute(begin('route', now + WAIT), user);
  };

  /** Begins a connection, beside the one there is if there is one. */
  const go = (): void => {
    abandon();
    if (!link) become('connecting', state.reason);
    if (!token || token === badToken || tokenEnds - now < LATE) shell.askToken(begin('token', now + TOKEN_WAIT));
    else proceed();
  };

  const noToken = (error: PresenceError, refresh: boolean): void => {
    if (!refresh) return later(error);
    complain(error);
    refreshAt = now + delay(++refreshes);
  };

  /** A token that was never welcomed was refused; two in a row are enough. */
  const tokenRefused = (error: PresenceError, refresh: boolean): void => {
    badToken = token;
    if (++badTokens < 2) return noToken(error, refresh);
    fail(new PresenceError(error.code, `${error.message}, twice: check its secret, algorithm, issuer and audience`));
  };

  const welcomed = (from: Link, message: Message): void => {
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
    flush();
    if (old) shell.hangUp(old, 1000);
    become('connected');
  };

  // -- and lost -------------------------------------------------------------------------------------

  const gone = (code: number, words: string, welcomed: boolean): void => {
    const error = new PresenceError(code, words || `closed with ${code}`);
    if (FINAL.includes(code)) return fail(error);
    // While a move is under way its connection is what counts.
    if (welcomed && (jobIs || retryAt < NEVER)) return become('connecting', error);
    if (code === 4401) {
      if (!proven) return tokenRefused(error, false);
      // It has ended, or its key was taken back: the next one may be good.
      badToken = token;
      if (!hops++) return go();
    }
    if (!welcomed || code === 4421 || code === 1001 || code === 1012 || code === 1013) address = '';
    if (code === 4421 || code === 1012) {
      if (hops++ < HOPS) {
        if (code === 4421 && /^wss?:/.test(words)) address = words;
        become('connecting', error);
        return go();
      }
    }
    later(error, code === 4429 ? WAIT / 2 : 0);
  };

  const loseLink = (): void => {
    if (now - link!.welcomedAt >= STABLE) attempt = hops = 0;
    link = undefined;
    refreshAt = NEVER;
    requests.lost();
    // What a refresh brings was meant for that connection.
    if (jobIs === 'refresh') idle();
  };

  const loseNext = (code: number, words: string): void => {
    const { address, told } = next!;
    next = undefined;
    idle();
    if (!told && ++refusals === REFUSALS) shell.diagnose(user, address);
    gone(code, words, false);
  };

  const closed = (from: Link, code: number, words: string): void => {
    if (from === link) {
      loseLink();
      gone(code, words, true);
    } else if (from === next) loseNext(code, words);
  };

  // -- time -----------------------------------------------------------------------------------------

  const send = (to: Link, message: Message): void => {
    shell.send(to, message);
    to.sentAt = now;
  };

  const flush = (): void => requests.flush((message) => send(link!, message), now);

  const ping = (wait: number): void => {
    if (link!.pongBy === NEVER) {
      link!.pingId = requests.id();
      send(link!, { type: 'ping', id: link!.pingId });
    }
    link!.pongBy = Math.min(link!.pongBy, now + wait);
  };

  /** Something may have happened while nobody looked: one ping, or a connection at once. */
  const doubt = (): void => {
    if (!wanted || aside) return;
    lookedAt = now;
    if (link) {
      if (link.pongBy <= now && !link.excused) {
        link.excused = true;
        link.pongBy = NEVER;
      }
      ping(PROBE_WAIT);
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

  const tooLong = (): void => {
    if (next) {
      shell.hangUp(next, ASIDE);
      return loseNext(1006, `${next.address} did not answer in time`);
    }
    const was = jobIs;
    idle();
    if (was === 'route') gotNoRoute(new PresenceError('route', 'the route look-up did not answer in time'));
    else noToken(new PresenceError('token', `the token function did not answer in time`), was === 'refresh');
  };

  /** The nodes serve on when no coordinator answers. */
  const gotNoRoute = (error: PresenceError): void => {
    if (lastAddress) dial(lastAddress);
    else later(error);
  };

  return {
    watches,
    requests,
    state: (): ConnectionState => state,
    self: (): Self | undefined => self,
    deadline,
    setTime: (time: number): void => void (now = time),
    closed,
    doubt,

    connect(): void {
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
      if (link) send(link, { type: 'bye' });
      end(1000);
      watches.forget();
      requests.fail(new PresenceError('closed', 'disconnect() was called'));
      self = chosen = undefined;
      token = badToken = user = address = lastAddress = '';
      become('disconnected');
    },

    /** What this session does; `undefined` for what its idle time says, from now on. */
    choose(activity: Activity | undefined): void {
      chosen = activity;
      activeAt = now;
    },

    /** The user did something. */
    touched(): void {
      activeAt = now;
    },

    /** The page runs no script for a while, and has no connection in that time. */
    putAside(): void {
      if (!wanted || aside) return;
      end(ASIDE);
      wanted = aside = true;
      become('connecting', new PresenceError('aside', 'the page is kept aside'));
    },

    back(): void {
      if (!aside) return doubt();
      aside = false;
      lookedAt = now;
      go();
    },

    /** The token function's answer, or its error, which may be `final`. */
    gotToken(from: number, given: unknown, error: string, final: boolean): void {
      if (from !== job) return;
      const refresh = jobIs === 'refresh';
      const failed = (words: string): void => noToken(new PresenceError('token', `the token function ${words}`), refresh);
      idle();
      if (final) return fail(new PresenceError('not_allowed', `the token function says: ${error}`));
      if (error) return failed(`failed: ${error}`);
      const claimed = claims(given);
      if (!claimed) return failed('gave no JWT with a "sub"');
      if (given === badToken) return tokenRefused(new PresenceError(4401, 'the token function gave the refused token'), refresh);
      if (refresh && given === token) return failed('gave the token that is about to end');
      if (user && claimed.sub !== user) {
        return fail(new PresenceError('wrong_user', `the token is of ${claimed.sub}, not ${user}: disconnect() first`));
      }
      user = claimed.sub;
      token = given as string;
      tokenEnds = claimed.exp ? claimed.exp * 1000 : NEVER;
      proven = false;
      if (refresh) send(link!, { type: 'auth', token });
      else proceed();
    },

    /** Where the user connects; or why nobody says, which may be `final`. */
    gotRoute(from: number, to: string, words: string, final: boolean): void {
      if (from !== job) return;
      idle();
      const error = new PresenceError('route', words);
      if (to) dial(to);
      else if (final) fail(error);
      else gotNoRoute(error);
    },

    /** Why connections are refused. */
    diagnosed(words: string): void {
      if (link || !wanted) return;
      const error = new PresenceError('refused', `${REFUSALS} WebSockets were refused: ${words}`);
      become('connecting', error);
      complain(error);
    },

    opened(from: Link, protocol: boolean): void {
      if (from !== next) return;
      // Firefox opens a connection whose server named no subprotocol.
      if (!protocol) {
        shell.hangUp(next, ASIDE);
        return loseNext(1006, `${address} names no subprotocol: is it online-status?`);
      }
      next.told = activity();
      next.heardAt = now;
      send(next, { type: 'auth', token: next.withToken, status: next.told, alive: Math.ceil(heartbeat / 400) });
    },

    heard(from: Link, message: Message): void {
      const { type } = message;
      from.heardAt = now;
      // Of a connection that was replaced too: a record is as good as any.
      if (type === 'presence') watches.learn(message.users as UserPresence[], now);
      else if (from !== link && from !== next) return;
      else if (type === 'welcome') welcomed(from, message);
      else if (type === 'pong') {
        if (message.id === from.pingId) {
          from.pongBy = NEVER;
          from.excused = false;
        }
      } else if (type === 'move') {
        if (from !== link) return;
        address = message.address as string;
        go();
      } else if (type === 'expiring') {
        // Not all clients in the same moment.
        refreshAt = Math.min(refreshAt, now + (message.in as number) * 250 * (1 + random()));
      } else if (type === 'error') {
        const error = new PresenceError(message.code as string, message.message as string);
        if (error.code === 'wrong_user') fail(error);
        else if (error.code === 'bad_token') tokenRefused(error, true);
        else requests.answered(message, now, error);
      } else requests.answered(message, now);
    },

    /** Does what is due; called at any time, for instance after the application did something. */
    tick(): void {
      if (!wanted || aside) return;
      // The machine slept, or the page was frozen.
      const late = now - Math.max(deadline(), lookedAt) > LATE;
      lookedAt = now;
      if (late) {
        if (jobBy <= now && !jobExcused) {
          jobExcused = true;
          jobBy = now + PROBE_WAIT;
        }
        doubt();
      }
      if (link && link.pongBy <= now) {
        shell.hangUp(link, ASIDE);
        loseLink();
        become('connecting', new PresenceError('silent', 'no answer to a ping'));
        if (!jobIs) retryAt = now;
      }
      if (jobBy <= now) tooLong();
      if (retryAt <= now) go();
      if (!link) return;
      if (refreshAt <= now && !jobIs) {
        refreshAt = NEVER;
        shell.askToken(begin('refresh', now + TOKEN_WAIT));
      }
      watches.recheck(now);
      if (activity() !== link.told) requests.set({ status: (link.told = activity()) });
      flush();
      if (link.pongBy === NEVER && heartbeatAt() <= now) ping(WAIT);
    },
  };
}
