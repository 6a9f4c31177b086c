/** What others see of a user. */
export type Status = 'online' | 'away' | 'busy' | 'offline';
/** What a session reports of itself. */
export type Activity = 'online' | 'away';
/** What a person chose for all devices; `invisible` shows as `offline` to others. */
export type Mode = 'auto' | 'busy' | 'invisible';
/** The connection: `failed` is final until `connect()` is called again. */
export type StateName = 'disconnected' | 'connecting' | 'connected' | 'failed';

/** A user's presence, as the server tells it. */
export interface UserPresence {
  readonly user: string;
  readonly status: Status;
  /** The user's own words, at most 128 bytes; absent when there are none. */
  readonly text?: string;
  /** Since when the status holds, ms since 1970; absent for a user never seen. */
  readonly since?: number;
  /** When an offline user was last online, ms since 1970. */
  readonly last_seen?: number;
  /** Connected devices. */
  readonly devices: number;
  /** Grows with every change; 0 for a user never seen. */
  readonly version: number;
  /** The chosen mode, in the record of the client's own user only. */
  readonly mode?: Mode;
}

/** The state of the connection, and why it is so when that is not what was asked for. */
export interface ConnectionState {
  readonly state: StateName;
  readonly reason?: PresenceError;
}

/** The client's own user, as far as the server has told. */
export interface Self {
  readonly user: string;
  readonly session: string;
  readonly node: string;
  /** What the person chose; absent while the server does not know. */
  readonly mode?: Mode;
  /** The person's own words; absent when there are none, or the server does not know. */
  readonly text?: string;
}

/**
 * Something that did not work, in words for a developer. `code` is the number of a close code or an error code of
 * the protocol, or one of the client's own: `token` (the token function failed), `not_allowed` (it says that there
 * is no use in asking again), `wrong_user`, `route` (the look-up failed), `plaintext` (a route with TLS named an
 * address without), `refused` (WebSockets are, in a row),
 * `silent` (no answer to a ping), `aside` (the page is in the back-forward cache or frozen), `bad_user`,
 * `watch_limit`, `too_many_waiting`, `closed` (by `disconnect()`).
 */
export class PresenceError extends Error {
  override readonly name = 'PresenceError';
  constructor(
    /** What kind of thing. */
    readonly code: string | number,
    message: string,
    /** The users concerned. */
    readonly users?: readonly string[],
  ) {
    super(message);
  }
}

/** Thrown by an application's token function to say that there is no use in asking again. */
export class NotAllowed extends Error {
  override readonly name = 'NotAllowed';
}

/** The events of `on`, each with what its listener gets. */
export interface Events {
  /** The state of the connection changed. */
  state: ConnectionState;
  /** Something did not work and needs a developer; without a listener it goes to `console.error`. */
  error: PresenceError;
  /** The client's own user, told at each connection, and again when the server knows more. */
  self: Self;
}

/** A message of the protocol. */
export interface Message {
  type: string;
  id?: number | string;
  [member: string]: unknown;
}

/** How messages are written on the wire; JSON is the default, `@online-status/client/cbor` has the other. */
export interface Codec {
  /** The WebSocket subprotocol. */
  readonly protocol: string;
  encode(message: Message): string | Uint8Array<ArrayBuffer>;
  decode(data: string | ArrayBuffer): Message;
}

/** As much of a WebSocket (WHATWG) as the client uses. */
export interface Socket {
  readonly protocol: string;
  binaryType: string;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

/** Time and timers, in ms. */
export interface Clock {
  /** Now, in ms since 1970. */
  now(): number;
  setTimeout(call: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

/** As much of an `EventTarget` as the client listens to. */
export interface Target {
  addEventListener(type: string, listener: (event: any) => void, options?: any): void;
  removeEventListener(type: string, listener: (event: any) => void, options?: any): void;
}

/** The page that the client lives in. */
export interface Page {
  /** Where `online`, `offline`, `pagehide`, `pageshow` and the user's input are heard. */
  window: Target;
  /** Where `visibilitychange`, `freeze` and `resume` are heard. */
  document: Target & { readonly visibilityState: string };
}

/** What `connect` is told. */
export interface Options {
  /** The coordinators' address (or a standalone edge's): `https://presence.example`. */
  route: string;
  /**
   * Gives a token of the user, a JWT. Asked before the first connection, before the token ends and after it was
   * refused. It may throw `NotAllowed`, which ends in `failed`; anything else is tried again with back-off.
   */
  token: () => string | Promise<string>;
  /** Idle time after which the session reports `away`, seconds; 0 for never. Default: 300 in a page, else 0. */
  autoAway?: number;
  /**
   * Silence after which the client sends a ping, seconds, 5 to 240. Default 60. It promises the server to say
   * something in 2.5 times that, which has to be within `presence.alive_min` and `alive_max` of the server.
   */
  heartbeat?: number;
  /** How messages are written. Default: JSON. */
  codec?: Codec;
  /** The WebSocket class. Default: the global one (Node.js before 22 has none: give that of `ws`). */
  WebSocket?: new (url: string, protocols: string[]) => Socket;
  /** Default: the global one. */
  fetch?: (url: string, init?: { signal?: AbortSignal }) => Promise<{ status: number; ok: boolean; json(): Promise<any> }>;
  /** Default: the global one. */
  clock?: Clock;
  /** A number from 0 to below 1, for jitter. Default: `Math.random`. */
  random?: () => number;
  /** Default: the global `window` and `document` where there are any; `null` for none. */
  page?: Page | null;
}
