// packaging/kubernetes against Kubernetes' schemas, and its settings against the programs that read them.
import { before, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
const folder = path.join(root, 'packaging/kubernetes');
// The schemas of Kubernetes and a parser of YAML, from PyPI.
const [tool, version] = ['kubernetes-validate', '1.37.0'];
const tools = path.join(target, `${tool}-${version}`);

function run(command, words, options = {}) {
  const done = spawnSync(command, words, { encoding: 'utf8', env: { ...process.env, PYTHONPATH: tools }, ...options });
  if (done.error) throw done.error;
  return done;
}

function good(done) {
  assert.equal(done.status, 0, `${done.stdout}${done.stderr}`);
  return done.stdout;
}

function parse(text) {
  const program = 'import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))';
  return JSON.parse(good(run('python3', ['-c', program], { input: text })));
}

let text;
let objects;
const find = (kind, name) => objects.find((object) => object.kind === kind && object.metadata.name === name);

before(() => {
  if (!fs.existsSync(path.join(tools, 'kubernetes_validate'))) {
    good(run('python3', ['-m', 'pip', 'install', '--quiet', '--target', tools, `${tool}==${version}`]));
  }
  const [kustomization] = parse(fs.readFileSync(path.join(folder, 'kustomization.yaml'), 'utf8'));
  text = kustomization.resources.map((name) => fs.readFileSync(path.join(folder, name), 'utf8')).join('\n---\n');
  objects = parse(text);
});

// With nothing unknown in any object.
function validate(yaml) {
  const program = [
    'import sys, yaml, kubernetes_validate as k',
    'for o in yaml.safe_load_all(sys.stdin): k.validate(o, sys.argv[1], strict=True)',
  ].join('\n');
  return run('python3', ['-c', program, version.split('.').slice(0, 2).join('.')], { input: yaml });
}

test('every object is valid, and a wrong one is found', () => {
  assert.ok(objects.length >= 15);
  good(validate(text));
  const wrong = validate(text.replace('terminationGracePeriodSeconds: 60', 'terminationGracePeriod: 60'));
  assert.notEqual(wrong.status, 0);
  assert.match(wrong.stderr, /terminationGracePeriod/);
});

test('kubectl renders the same objects with the release as their images', (t) => {
  const done = spawnSync('kubectl', ['kustomize', folder], { encoding: 'utf8' });
  if (done.error) return t.skip('kubectl is not installed');
  const rendered = parse(good(done));
  assert.equal(rendered.length, objects.length);
  good(validate(done.stdout));
  const cargo = fs.readFileSync(path.join(root, 'Cargo.toml'), 'utf8');
  const [, release] = cargo.match(/^version = "(.*)"$/m);
  const images = [...done.stdout.matchAll(/image: (.*)/g)].map(([, image]) => image);
  assert.equal(images.length, 3);
  for (const image of images) assert.match(image, new RegExp(`^online-status-(edge|coordinator):${release}$`));
});

// The settings of a pod's container as a pod would have them.
function environment(pod, name) {
  const [container] = pod.spec.containers;
  const settings = {
    JWT_SECRET: 'x'.repeat(44), REDIS_URL: 'redis://127.0.0.1:1', ONLINE_STATUS_CLUSTER_LINK_KEY: 'y'.repeat(44),
  };
  for (const { configMapRef } of container.envFrom) Object.assign(settings, configMapRef ? find('ConfigMap', configMapRef.name).data : {});
  for (const { name: key, value, valueFrom } of container.env) {
    const field = { 'metadata.name': name, 'status.podIP': '10.0.0.7' }[valueFrom?.fieldRef.fieldPath];
    assert.ok(value ?? field, key);
    settings[key] = valueFrom ? field : value.replace(/\$\((\w+)\)/g, (_, key) => settings[key]);
  }
  return settings;
}

function check(program, settings) {
  const env = { PATH: process.env.PATH, ...settings };
  return spawnSync(path.join(target, 'release', program), ['config', 'check'], { encoding: 'utf8', env });
}

function effective(program, settings) {
  const wrong = check(program, { ...settings, ONLINE_STATUS_AUTH_SECRT: 'x' });
  assert.equal(wrong.status, 2);
  const done = check(program, settings);
  assert.equal(done.status, 0, done.stderr);
  const seconds = (key) => Number(done.stdout.match(new RegExp(`^${key} = "(\\d+)s"$`, 'm'))[1]);
  return { shown: done.stdout, seconds };
}

test('an edge has the settings it is given, and time to drain', () => {
  const set = find('StatefulSet', 'online-status-edge');
  const pod = set.spec.template;
  const { shown, seconds } = effective('online-status-edge', environment(pod, 'online-status-edge-1'));
  assert.match(shown, /^id = "online-status-edge-1"$/m);
  assert.match(shown, /^link_address = "10\.0\.0\.7:8082"$/m);
  assert.match(shown, /^public_url = "wss:\/\/online-status-edge-1\.presence\.example\/socket"$/m);
  assert.ok(pod.spec.terminationGracePeriodSeconds > seconds('drain_timeout') + 2);
  assert.equal(pod.spec.enableServiceLinks, false);
  assert.equal(find('PodDisruptionBudget', set.metadata.name).spec.maxUnavailable, 1);
  // A host and a Service for each.
  const hosts = find('Ingress', 'online-status').spec.rules.map((rule) => rule.host);
  for (let n = 0; n < set.spec.replicas; n += 1) {
    const name = `online-status-edge-${n}`;
    assert.ok(hosts.includes(`${name}.presence.example`));
    const { selector, publishNotReadyAddresses } = find('Service', name).spec;
    assert.deepEqual(selector, { 'statefulset.kubernetes.io/pod-name': name });
    assert.ok(publishNotReadyAddresses, 'users of an edge that drains are still there');
  }
});

test('a coordinator has the settings it is given, and time to be left by balancers', () => {
  const pod = find('Deployment', 'online-status-coordinator').spec.template;
  const { seconds } = effective('online-status-coordinator', environment(pod, 'online-status-coordinator-x'));
  assert.ok(pod.spec.terminationGracePeriodSeconds > seconds('shutdown_delay') + seconds('shutdown_timeout'));
});

test('edges run under the profile that is put on their nodes, and nobody but that is root', () => {
  const [edge] = find('StatefulSet', 'online-status-edge').spec.template.spec.containers;
  const installer = find('DaemonSet', 'online-status-seccomp').spec.template.spec;
  const { type, localhostProfile } = edge.securityContext.seccompProfile;
  assert.equal(type, 'Localhost');
  const [container] = installer.containers;
  const [, from, to] = container.args[0].match(/cp (\S+) \/host\/\S+\n\s*mv \S+ \/host\/(\S+)/);
  assert.equal(`/var/lib/kubelet/seccomp/${localhostProfile}`, `${installer.volumes[0].hostPath.path}/${to}`);
  const dockerfile = fs.readFileSync(path.join(root, 'docker/Dockerfile'), 'utf8');
  assert.ok(dockerfile.includes(`docker/${path.basename(from)} ${path.dirname(from)}/`));
  assert.match(dockerfile, /^USER \d+:\d+$/m);
  for (const { spec } of objects) {
    for (const { securityContext: context } of spec?.template?.spec.containers ?? []) {
      assert.deepEqual(context.capabilities.drop, ['ALL']);
      assert.ok(context.readOnlyRootFilesystem && !context.allowPrivilegeEscalation);
      assert.ok(context.runAsNonRoot || context.runAsUser === 0);
    }
  }
});
