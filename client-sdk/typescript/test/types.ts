// What the client's types and those of docs/schema/messages.json have to say to each other; `./messages` is made of
// the schema by schema.test.mjs, which compiles this file. Nothing here runs.
import type { Activity, Mode, Self, Status, UserPresence } from '../packages/client/src/types.js';
import type { Wish } from '../packages/client/src/requests.js';
import type * as Schema from './messages.js';

declare global {
  // The types of browsers would take a second to read.
  interface AbortSignal {}
}

/** Either can be given where the other is wanted, and has no member more. */
type Same<A, B> = [A, B, keyof A, keyof B] extends [B, A, keyof B, keyof A] ? true : false;
/** The members of `A`, which `B` has too and gives as `A` wants them. */
type Part<A, B> = [keyof A, Pick<B, keyof A & keyof B>] extends [keyof B, A] ? true : false;
type Own<Message> = Omit<Message, 'type' | 'id'>;

const agree = <_Check extends true>(): void => {};
agree<Same<Status, Schema.Status>>();
agree<Same<Activity, Schema.Activity>>();
agree<Same<Mode, Schema.Mode>>();
agree<Same<UserPresence, Schema.Record>>();
agree<Part<Self, Schema.Welcome>>();
agree<Same<Wish, Own<Schema.SetStatus>>>();
