// A roster: who of my contacts is online, since when the others are not, and how I am shown myself.
import { connect, NotAllowed } from '@online-status/client';

const $ = (id) => document.getElementById(id);
const contacts = await fetch('contacts').then((answer) => answer.json());
let presence;

/** What the site's own server gives to those who are logged in. */
async function token(user) {
  const answer = await fetch(`token?user=${encodeURIComponent(user)}`);
  if (answer.status === 403) throw new NotAllowed(await answer.text());
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return answer.text();
}

function login(user) {
  const { route } = contacts;
  presence = connect({ route, token: () => token(user) });
  presence.on('state', ({ state, reason }) => {
    $('state').textContent = state === 'connected' ? 'connected' : `${state}${reason ? `: ${reason.message}` : ''}`;
    // What is shown may be old while there is no connection.
    $('roster').classList.toggle('stale', state !== 'connected');
  });
  presence.on('self', ({ mode, text }) => {
    if (mode) $('mode').value = mode;
    if (document.activeElement !== $('text')) $('text').value = text ?? '';
  });
  presence.on('error', (error) => { $('problem').textContent = error.message; });
  presence.watch(contacts.users.filter((contact) => contact !== user), draw);
  // Another device of mine may choose another mode.
  presence.watch([user], ([me]) => { if (me.mode) $('mode').value = me.mode; });
  $('me').textContent = user;
  $('problem').textContent = '';
  $('login').hidden = !($('main').hidden = false);
}

function logout() {
  presence.disconnect();
  $('roster').replaceChildren();
  $('main').hidden = !($('login').hidden = false);
}

function draw(users) {
  $('roster').replaceChildren(...users.map(({ user, status, text, last_seen }) => {
    const line = document.createElement('li');
    line.className = status;
    line.dataset.user = user;
    const part = (name, words) => Object.assign(document.createElement('span'), { className: name, textContent: words });
    line.append(part('dot', ''), part('name', user), part('note', text ?? (status === 'offline' ? ago(last_seen) : status)));
    return line;
  }));
}

function ago(time) {
  if (!time) return 'never seen';
  const minutes = Math.round((Date.now() - time) / 60_000);
  const words = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
  if (minutes < 1) return 'last seen just now';
  return `last seen ${minutes < 90 ? words.format(-minutes, 'minute') : words.format(-Math.round(minutes / 60), 'hour')}`;
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  login($('name').value.trim());
});
$('logout').addEventListener('click', logout);
const tell = (promise) => promise.catch((error) => { $('problem').textContent = error.message; });
$('mode').addEventListener('change', () => tell(presence.setMode($('mode').value)));
$('say').addEventListener('submit', (event) => {
  event.preventDefault();
  tell(presence.setText($('text').value));
});
