/**
 * The CBOR form of the protocol: `connect({ codec: cbor, … })`.
 *
 * @module @online-status/client/cbor
 */
// As much of CBOR (RFC 8949) as the protocol has: maps with the small keys of its members, arrays, texts,
// booleans, null and numbers that JavaScript has exactly.
import type { Codec, Message } from './types.js';

const MEMBERS = [
  'type', 'id', 'user', 'users', 'known', 'status', 'text', 'since', 'last_seen', 'devices', 'version', 'token', 'session', 'node',
  'heartbeat', 'expires', 'address', 'in', 'code', 'message', 'mode', 'alive', 'limits', 'watches', 'messages',
];
const TYPES = [
  '', 'auth', 'watch', 'unwatch', 'query', 'status', 'ping', 'bye', 'welcome', 'snapshot', 'presence', 'result', 'ok', 'pong', 'error', 'move', 'expiring',
];
const MOST_DEPTH = 8;

const utf8 = new TextEncoder();
const text = new TextDecoder('utf-8', { fatal: true });

function encode(value: unknown): Uint8Array<ArrayBuffer> {
  let out = new Uint8Array(256);
  let at = 0;
  const room = (more: number): void => {
    if (at + more <= out.length) return;
    const larger = new Uint8Array(2 * (at + more));
    larger.set(out);
    out = larger;
  };
  const head = (major: number, n: number): void => {
    room(9);
    const view = new DataView(out.buffer);
    if (n < 24) out[at++] = (major << 5) | n;
    else if (n < 0x100) {
      out[at++] = (major << 5) | 24;
      out[at++] = n;
    } else if (n < 0x10000) {
      out[at] = (major << 5) | 25;
      view.setUint16(at + 1, n);
      at += 3;
    } else if (n < 0x1_0000_0000) {
      out[at] = (major << 5) | 26;
      view.setUint32(at + 1, n);
      at += 5;
    } else {
      out[at] = (major << 5) | 27;
      view.setBigUint64(at + 1, BigInt(n));
      at += 9;
    }
  };
  const string = (value: string): void => {
    const bytes = utf8.encode(value);
    head(3, bytes.length);
    room(bytes.length);
    out.set(bytes, at);
    at += bytes.length;
  };
  // Keys of `known` are users, whatever they are called.
  const item = (value: unknown, keys: boolean): void => {
    if (typeof value === 'string') string(value);
    else if (typeof value === 'number' && Number.isSafeInteger(value)) head(value < 0 ? 1 : 0, value < 0 ? -1 - value : value);
    else if (typeof value === 'boolean' || value === null) head(7, value === null ? 22 : value ? 21 : 20);
    else if (Array.isArray(value)) {
      head(4, value.length);
      for (const one of value) item(one, keys);
    } else if (typeof value === 'object') {
      const all = Object.entries(value).filter(([, one]) => one !== undefined);
      head(5, all.length);
      for (const [name, one] of all) {
        const key = keys ? MEMBERS.indexOf(name) : -1;
        if (key < 0) string(name);
        else head(0, key);
        if (keys && name === 'type') item(Math.max(0, TYPES.indexOf(one)) || one, true);
        else item(one, keys && name !== 'known');
      }
    } else throw new TypeError(`${String(value)} has no form in CBOR`);
  };
  item(value, true);
  return out.slice(0, at);
}

function decode(data: ArrayBuffer): unknown {
  const bytes = new Uint8Array(data);
  const view = new DataView(data);
  let at = 0;
  const bad = (): never => {
    throw new TypeError('not CBOR of the protocol');
  };
  const argument = (low: number): number => {
    if (low < 24) return low;
    if (low > 27) return bad();
    const size = 1 << (low - 24);
    at += size;
    if (low === 24) return view.getUint8(at - 1);
    if (low === 25) return view.getUint16(at - 2);
    if (low === 26) return view.getUint32(at - 4);
    return Number(view.getBigUint64(at - 8));
  };
  const ends = (): boolean => bytes[at] === 0xff && !!++at;
  const item = (depth: number): unknown => {
    if (depth > MOST_DEPTH || at >= bytes.length) return bad();
    const first = bytes[at++]!;
    const [major, low] = [first >> 5, first & 31];
    if (major === 7) {
      if (low === 25) return half(argument(low));
      if (low === 26 || low === 27) {
        at += low === 26 ? 4 : 8;
        return low === 26 ? view.getFloat32(at - 4) : view.getFloat64(at - 8);
      }
      return low === 20 ? false : low === 21 ? true : low === 22 ? null : low === 23 ? undefined : bad();
    }
    const endless = low === 31 && major > 2 && major < 6;
    const n = endless ? Infinity : argument(low);
    if (major === 0) return n;
    if (major === 1) return -1 - n;
    if (major === 3 && !endless) {
      if (at + n > bytes.length) return bad();
      at += n;
      return text.decode(bytes.subarray(at - n, at));
    }
    if (major === 3) {
      let all = '';
      while (!ends()) all += item(depth + 1) as string;
      return all;
    }
    if (major === 4) {
      const all: unknown[] = [];
      for (let i = 0; i < n && !(endless && ends()); i++) all.push(item(depth + 1));
      return all;
    }
    if (major !== 5) return bad();
    const all: Record<string, unknown> = {};
    for (let i = 0; i < n && !(endless && ends()); i++) {
      const key = item(depth + 1);
      const name = typeof key === 'number' ? MEMBERS[key] : (key as string);
      const value = item(depth + 1);
      // What this version does not know is left out.
      if (name === undefined) continue;
      const known = name === 'type' && typeof value === 'number' ? TYPES[value] : value;
      Object.defineProperty(all, name, { value: known, enumerable: true, writable: true, configurable: true });
    }
    return all;
  };
  const value = item(0);
  if (at !== bytes.length) bad();
  return value;
}

/** A number of 16 bits (IEEE 754 binary16). */
function half(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

/** One CBOR map a binary frame, with the protocol's small keys. */
export const cbor: Codec = {
  protocol: 'online-status.v1.cbor',
  encode,
  decode: (data) => decode(data as ArrayBuffer) as Message,
};
