// What a page tells: that it is kept aside, shown again, seen, used, on the network.
import type { Core } from './core.js';
import type { Page } from './types.js';

/** How often the user's input is heard of, ms. */
const EACH = 1_000;

/** Tells the core what the page tells, until the function that it returns is called. */
export function listen({ window, document }: Page, core: Core, now: () => number, act: (event: () => void) => void): () => void {
  const ends: (() => void)[] = [];
  const on = (target: Page['window'], types: string, call: (event: any) => void, options?: object): void => {
    for (const type of types.split(' ')) {
      const listener = (event: unknown): void => act(() => call(event));
      target.addEventListener(type, listener, options);
      ends.push(() => target.removeEventListener(type, listener, options));
    }
  };
  let last = 0;
  const used = (): void => {
    if (now() - last >= EACH) core.touched(), last = now();
  };
  on(window, 'pointerdown pointermove keydown wheel touchstart', used, { passive: true, capture: true });
  on(window, 'online offline', () => core.doubt());
  // Into the back-forward cache: there the browser would go on answering pings. Closed with a code that is no
  // farewell, since the next page of the same site may be there in a moment.
  on(window, 'pagehide', (event) => event.persisted && core.putAside());
  on(document, 'freeze', () => core.putAside());
  on(window, 'pageshow', (event) => event.persisted && core.back());
  on(document, 'resume', () => core.back());
  on(document, 'visibilitychange', () => {
    if (document.visibilityState === 'hidden') return;
    core.touched();
    core.doubt();
  });
  return () => ends.forEach((end) => end());
}
