// Where a user connects, asked of a coordinator or a standalone edge; and why connections are refused.
import type { Options } from './types.js';

/** How long an answer may take, ms: less than the core waits, so that there is an error to tell. */
const WAIT = 8_000;

async function get({ fetch: given = fetch }: Options, url: string): Promise<[body: any, error: string, status: number]> {
  try {
    const answer = await given(url, { signal: AbortSignal.timeout(WAIT) });
    const body = (await answer.json().catch(() => {})) ?? {};
    return [body, answer.ok ? '' : `${url} answers ${answer.status} ${body.detail ?? ''}`, answer.status];
  } catch (error: any) {
    return [{}, `${url} is not reached: ${error.cause ?? error}`, 0];
  }
}

/** The address; or why there is none, and whether asking again is of no use. */
export async function look(options: Options, user: string): Promise<[address: string, error: string, final: boolean]> {
  const url = `${String(options.route).replace(/\/(route)?$/, '')}/route?userId=${encodeURIComponent(user)}`;
  const [{ address }, error, status] = await get(options, url);
  return [!error && /^wss?:/.test(address) ? address : '', error || `${url} names no address`, status === 400];
}

/** What `/route` and the node's health path say, for somebody whose connections are refused. */
export async function diagnose(options: Options, user: string, address: string): Promise<string> {
  const [[found, error], [, dead]] = await Promise.all([
    look(options, user),
    get(options, address.replace(/^ws(.*\/).*/, 'http$1healthz')),
  ]);
  if (!found) return error;
  return dead || `${address} is up: check server.origins, its limits, and proxies in between`;
}
