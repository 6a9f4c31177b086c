// A rolling upgrade on real processes, there and back: a development cluster of the build of another
// revision, whose edges and then coordinators go on one after the other as this build, and back again,
// under load. By hand, since it builds that revision: node tests/upgrade/run.mjs REVISION
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { Cluster, now, root } from '../faults/cluster.mjs';

const EDGES = ['edge-1', 'edge-2', 'edge-3'];
const COORDINATORS = ['coordinator-1', 'coordinator-2'];
const SECONDS = Number(process.env.LOAD_SECONDS ?? 120);
const here = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');

function fail(what) {
  console.error(what);
  process.exit(2);
}

/** Builds the revision, unless that was done before; the target folder. */
function built(revision) {
  const found = spawnSync('git', ['-C', root, 'rev-parse', '--verify', '--quiet', `${revision}^{commit}`], { encoding: 'utf8' });
  if (found.status !== 0) fail(`there is no revision ${revision}; usage: node tests/upgrade/run.mjs REVISION`);
  const commit = found.stdout.trim();
  const folder = path.join(here, 'upgrade', commit.slice(0, 12));
  const target = path.join(folder, 'target');
  if (!existsSync(path.join(target, 'release/online-status-coordinator'))) {
    const tree = path.join(folder, 'tree');
    mkdirSync(tree, { recursive: true });
    execFileSync('bash', ['-c', 'set -o pipefail; git -C "$0" archive "$1" | tar -x -C "$2"', root, commit, tree]);
    const words = ['build', '--release', '--locked', '-p', 'online-status-edge', '-p', 'online-status-coordinator'];
    const done = spawnSync('cargo', words, { cwd: tree, stdio: 'inherit', env: { ...process.env, CARGO_TARGET_DIR: target } });
    if (done.status !== 0) fail(`${commit} cannot be built`);
  }
  return { commit, target };
}

const revision = process.argv[2] ?? fail('usage: node tests/upgrade/run.mjs REVISION');
const before = built(revision);
// Builds from before the setting refuse it.
process.env.ONLINE_STATUS_LOG_FORMAT ??= '';
const cluster = await (async () => {
  const given = process.env.CARGO_TARGET_DIR;
  process.env.CARGO_TARGET_DIR = before.target;
  const made = await Cluster.up(Number(process.env.ONLINE_STATUS_TEST_PORTS ?? 24000));
  if (given === undefined) delete process.env.CARGO_TARGET_DIR;
  else process.env.CARGO_TARGET_DIR = given;
  return made;
})();

/** Has the processes of these names go on, one after the other, as another build. */
async function roll(names, target) {
  for (const name of names) {
    await cluster.run('stop', name);
    cluster.env.CARGO_TARGET_DIR = target;
    await cluster.run('start', name);
    await cluster.settled();
    const program = readlinkSync(`/proc/${await cluster.pid(name)}/exe`);
    if (!program.startsWith(path.join(target, 'release/'))) throw new Error(`${name} is ${program}`);
  }
}

const failures = [];
try {
  await cluster.settled();
  const steps = [];
  const result = await cluster.load({ seconds: SECONDS, tolerance: 10 }, async (second) => {
    for (const [what, names, target] of [
      ['edges to this build', EDGES, here], ['coordinators to this build', COORDINATORS, here],
      ['edges back', EDGES, before.target], ['coordinators back', COORDINATORS, before.target],
    ]) {
      const began = now();
      await roll(names, target);
      steps.push(`${what} in ${(now() - began).toFixed(0)} s`);
    }
    if (second() > SECONDS) failures.push(`the load of ${SECONDS} s ended before the upgrade did: give it more with LOAD_SECONDS=`);
  });
  failures.push(...result.failures);
  const { counts, disturbed, outage } = result;
  const slowest = (histogram) => (histogram ? `${(histogram.max / 1e6).toFixed(1)} s` : 'none');
  console.log(`${before.commit.slice(0, 12)}: ${steps.join(', ')}`);
  console.log(`${counts.delivered} delivered, ${counts.missed} missed, ${counts.flaps} flaps, ${counts.reordered} reordered, `
    + `${counts.wrong_at_end} wrong in the end, ${counts.conflated} conflated; slowest disturbed delivery ${slowest(disturbed)}, `
    + `longest outage of a session ${slowest(outage)}`);
} catch (error) {
  failures.push(error.message);
} finally {
  await cluster.down();
}
for (const failure of failures) console.error(`FAILED ${failure}`);
if (failures.length > 0) process.exitCode = 1;
