// The hooks on a server: they give nobody, and connect nowhere.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { createElement } from 'react';
import { renderToString } from 'react-dom/server';
import { PresenceProvider, useConnectionState, usePresence } from '@online-status/react';

test('a server draws nobody and opens nothing', async () => {
  let asked = 0;
  const options = { route: 'http://127.0.0.1:9', token: async () => { asked += 1; return ''; } };
  function Dot() {
    return createElement('i', null, `${usePresence(['bob']).get('bob')?.status ?? 'unknown'} ${useConnectionState().state}`);
  }
  const html = renderToString(createElement(PresenceProvider, { options }, createElement(Dot)));
  assert.equal(html, '<i>unknown disconnected</i>');
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(asked, 0);
});

test('a hook without a provider says what is missing', () => {
  const Lost = () => createElement('i', null, useConnectionState().state);
  assert.throws(() => renderToString(createElement(Lost)), /PresenceProvider/);
});
