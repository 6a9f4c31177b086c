import type { Codec, Message } from './types.js';

/** One JSON object a text frame. */
export const json: Codec = {
  protocol: 'online-status.v1.json',
  encode: (message) => JSON.stringify(message),
  decode: (data) => JSON.parse(data as string) as Message,
};
