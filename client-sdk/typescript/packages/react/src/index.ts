/**
 * React hooks of online-status: who is online, in a component.
 *
 * @module @online-status/react
 */
import { createPresence, type ConnectionState, type Options, type Presence, PresenceError, type UserPresence } from '@online-status/client';
import { createContext, createElement, type ReactNode, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react';

/** What `PresenceProvider` takes: options for a client that lives as long as it does, or a client of the application's own. */
export type ProviderProps = { children?: ReactNode } & ({ options: Options; client?: undefined } | { client: Presence; options?: undefined });

const Context = createContext<Presence | undefined>(undefined);
const NOBODY: ReadonlyMap<string, UserPresence> = new Map();
const DISCONNECTED: ConnectionState = { state: 'disconnected' };

/**
 * Gives its children a client. With `options` the client connects when the provider is mounted and says goodbye
 * when it goes; give it the user as `key`, so that another user gets another client. Of later options only the
 * token function counts. Nothing is connected on a server.
 */
export function PresenceProvider(props: ProviderProps): ReactNode {
  const { options, client, children } = props;
  const newest = useRef(options);
  useEffect(() => {
    newest.current = options;
  });
  const [own] = useState(() => options && createPresence({ ...options, token: () => newest.current!.token() }));
  useEffect(() => {
    own?.connect();
    return () => own?.disconnect();
  }, [own]);
  return createElement(Context.Provider, { value: client ?? own }, children);
}

/** The client of the nearest `PresenceProvider`: for `setMode`, `setText` and the like. */
export function usePresenceClient(): Presence {
  const client = useContext(Context);
  if (!client) throw new Error('usePresence and its kin need a <PresenceProvider> around them');
  return client;
}

/**
 * Watches users while the component is mounted; gives the record of each that is known. The map is the same until
 * one of them changes. Names that no user can have are left out, with a word in the console.
 */
export function usePresence(users: Iterable<string>): ReadonlyMap<string, UserPresence> {
  const client = usePresenceClient();
  const key = JSON.stringify([...users]);
  const store = useMemo(() => {
    const ids: string[] = JSON.parse(key);
    const view = (): ReadonlyMap<string, UserPresence> =>
      new Map(ids.flatMap((user) => {
        const record = client.get(user);
        return record ? [[user, record]] : [];
      }));
    let now = view();
    return {
      subscribe(changed: () => void): () => void {
        const look = (): void => {
          now = view();
          changed();
        };
        let unwatch = watch(client, ids, look);
        let forgotten = false;
        // A client that is disconnected forgets its watches, and may be connected again.
        const off = client.on('state', ({ state }) => {
          if (state === 'disconnected') look();
          else if (forgotten) unwatch = watch(client, ids, look);
          forgotten = state === 'disconnected';
        });
        return () => {
          off();
          unwatch();
        };
      },
      get: () => now,
    };
  }, [client, key]);
  return useSyncExternalStore(store.subscribe, store.get, () => NOBODY);
}

/** The state of the connection, and why it is so. */
export function useConnectionState(): ConnectionState {
  const client = usePresenceClient();
  const subscribe = useMemo(() => (changed: () => void) => client.on('state', changed), [client]);
  return useSyncExternalStore(subscribe, () => client.state, () => DISCONNECTED);
}

function watch(client: Presence, users: string[], call: () => void): () => void {
  for (;;) {
    try {
      return client.watch(users, call);
    } catch (error) {
      if (!(error instanceof PresenceError) || !error.users) throw error;
      console.error(`online-status: ${error.message}`);
      users = users.filter((user) => !error.users!.includes(user));
    }
  }
}
