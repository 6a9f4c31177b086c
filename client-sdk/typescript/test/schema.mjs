// docs/schema/messages.json, closed: a member that it does not have is an error here, though it is none between a
// client and a server.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import Ajv from 'ajv';

const file = new URL('../../../docs/schema/messages.json', import.meta.url);

function close(part) {
  if (typeof part !== 'object' || part === null) return part;
  if (part.properties) part.additionalProperties = false;
  Object.values(part).forEach(close);
  return part;
}

export const schema = () => close(JSON.parse(readFileSync(file, 'utf8')));

/** Checks messages of a kind, `clientMessage` or `serverMessage`, and remembers which types it has seen. */
export class Checker {
  seen = new Set();

  constructor(kind, { definitions } = schema()) {
    const ajv = new Ajv({ allErrors: true, strictRequired: false });
    this.checks = new Map(definitions[kind].oneOf.map(({ $ref }) => {
      const { type } = definitions[$ref.split('/').pop()].properties;
      return [type.const, ajv.compile({ definitions, $ref })];
    }));
  }

  check(message) {
    const check = this.checks.get(message.type);
    assert.ok(check, `the schema has no ${message.type}`);
    assert.ok(check(message), `${JSON.stringify(message)}: ${check.errors?.map(({ instancePath, message }) => `${instancePath} ${message}`).join(', ')}`);
    this.seen.add(message.type);
  }

  /** Types of which there was no message. */
  get missing() {
    return [...this.checks.keys()].filter((type) => !this.seen.has(type));
  }
}
