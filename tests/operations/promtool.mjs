// promtool, which reads what Prometheus reads.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';

/** Runs it with these words, and a text as its input; what it says to its second output. It has to be content. */
export function promtool(words, input) {
  const { error, status, stdout, stderr } = spawnSync('promtool', words, { input, encoding: 'utf8' });
  if (error) throw new Error(`promtool, of Debian's package prometheus, has to be in the path: ${error.message}`);
  assert.equal(status, 0, `promtool ${words.join(' ')}\n${stdout}${stderr}`);
  return stderr;
}
