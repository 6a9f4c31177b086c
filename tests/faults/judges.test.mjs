// What the scenarios judge by themselves, without a cluster: what is wrong is found.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Found, quarter } from './faults.mjs';
import { judge } from './ghosts.mjs';

/** What is found wrong with one user who vanished at 100, by what its watcher was told when. */
function ghost(...told) {
  const found = new Found();
  const all = told.map(([at, status]) => ({ at, status }));
  judge([{ told: all }], 100, { grace: 15, bound: 22 }, found);
  return found.failures.join('; ');
}

test('a user who vanished is offline once, not before its grace and not after the bound', () => {
  assert.equal(ghost([116, 'offline']), '');
  assert.match(ghost(), /for ever/);
  assert.match(ghost([114.9, 'offline']), /before the grace/);
  assert.match(ghost([122.1, 'offline']), /later than the bound/);
  assert.match(ghost([116, 'offline'], [117, 'offline']), /twice/);
  assert.match(ghost([116, 'offline'], [117, 'online']), /another state/);
});

/** What is found wrong when eight vnodes each of two nodes become these. */
function moved(...after) {
  const found = new Found();
  const before = ['a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b'];
  quarter(before, after, found);
  return found.failures.join('; ');
}

test('a node that comes takes a quarter of each, and nothing else moves', () => {
  const [a, b] = [['a', 'a', 'a', 'a', 'a'], ['b', 'b', 'b', 'b', 'b']];
  assert.equal(moved(...a, 'a', 'c', 'c', ...b, 'b', 'c', 'c'), '');
  assert.equal(moved(...a, 'c', 'c', 'c', ...b, 'b', 'b', 'c'), '', 'one more or less');
  assert.match(moved(...a, 'a', 'c', 'c', ...b, 'b', 'b', 'b'), /another share/);
  assert.match(moved(...a, 'a', 'b', 'c', ...b, 'b', 'c', 'c'), /1 vnodes moved between/);
});
