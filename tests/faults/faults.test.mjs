// A few faults in the test run; all of them by hand: `node tests/faults/faults.mjs`.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Cluster } from './cluster.mjs';
import { faults, one } from './faults.mjs';

let cluster;
before(async () => { cluster = await Cluster.up(23000); });
after(() => cluster?.down());

for (const name of ['kill-edge', 'flush-redis']) {
  test(`nothing is lost and nobody flaps: ${faults[name].what}`, async () => {
    const { counts } = await one(cluster, name);
    for (const wrong of ['missed', 'duplicated', 'reordered', 'flaps', 'wrong_at_end', 'errors']) {
      assert.equal(counts[wrong], 0, wrong);
    }
    assert.ok(counts.delivered > 10_000, 'there was a load');
  });
}
