// Faults under a fleet of clients, by hand:
//   node test/cluster/run.mjs [--sessions 1000] [roll-edges kill-edge redis kafka]
// It starts a cluster of its own (scripts/dev-cluster), prints a line for each fault, and exits with 1 when
// somebody was shown offline, a version went back, or a last state was missed.
import { parseArgs } from 'node:util';
import { Cluster, freeBase } from '../../../../tests/dev-cluster/cluster.mjs';
import { faults } from './faults.mjs';
import { Fleet } from './fleet.mjs';

const { values, positionals } = parseArgs({
  options: { sessions: { type: 'string', default: '1000' }, rate: { type: 'string', default: '50' }, 'port-base': { type: 'string' } },
  allowPositionals: true,
});
const names = positionals.length ? positionals : Object.keys(faults);
const unknown = names.find((name) => !faults[name]);
if (unknown) throw new Error(`${unknown}: the faults are ${Object.keys(faults).join(', ')}`);

const cluster = new Cluster(values['port-base'] ? Number(values['port-base']) : await freeBase());
let failed = false;
try {
  cluster.good('up', '--no-build', '--port-base', String(cluster.base));
  for (const name of names) {
    const world = faults[name];
    const fleet = new Fleet(cluster.env(), Number(values.sessions), { prefix: name, client: world.client?.() });
    await fleet.begin();
    const end = fleet.change(Number(values.rate));
    await world.inject(cluster, fleet);
    await end();
    await fleet.settled();
    console.log(`${name}: ${JSON.stringify({ sessions: fleet.users.length, ...fleet.report() })}`);
    for (const wrong of fleet.wrong.slice(0, 10)) console.log(`  ${wrong}`);
    failed ||= fleet.wrong.length > 0;
    fleet.end();
    await world.heal?.(cluster);
  }
} finally {
  cluster.remove();
}
process.exit(failed ? 1 : 0);
