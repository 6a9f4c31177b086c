// The client does what every client does: the files of behaviour/, each in a world of its own.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import * as Client from '@online-status/client';
import { said, sent, World } from './world.mjs';

const folder = new URL('../../behaviour/', import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8'));
const names = readdirSync(folder).filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -5));

const stepsOf = (script) => [...(script.begin ? stepsOf(read(script.begin)) : []), ...script.steps];

for (const name of names) {
  const script = read(name);
  test(`${name}: ${script.name}`, async () => {
    const world = new World(script, Client);
    const steps = stepsOf(script);
    for (const [n, step] of steps.entries()) {
      try {
        await world.step(step);
      } catch (error) {
        error.message = `step ${n - steps.length + script.steps.length + 1} of its own, ${JSON.stringify(step)}: ${error.message}`;
        throw error;
      }
    }
    world.nothing();
    assert.ok(steps.some((step) => step.expect), 'it expects nothing');
    world.client.disconnect();
  });
}

test('these files have each message of the schema, sent by a client or by its server', () => {
  assert.deepEqual([...sent.missing, ...said.missing], []);
});
