// A Keycloak of its own, in memory and in a folder of its own, with one realm, a public client and a
// user, and its administration as far as the tests need it.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { root } from '../dev-cluster/cluster.mjs';

const REALM = 'app';

export class Keycloak {
  static async start(port) {
    const fetched = spawnSync(path.join(root, 'scripts/fetch-keycloak'), { encoding: 'utf8' });
    if (fetched.status !== 0) throw new Error(`Keycloak cannot be fetched: ${fetched.stderr}`);
    const keycloak = new Keycloak(port);
    // Its first start changes files beside its own.
    fs.cpSync(fetched.stdout.trim(), keycloak.folder, { recursive: true });
    const log = fs.openSync(keycloak.log, 'a');
    const env = {
      ...process.env,
      KC_BOOTSTRAP_ADMIN_USERNAME: 'admin', KC_BOOTSTRAP_ADMIN_PASSWORD: 'admin', JAVA_OPTS_KC_HEAP: '-Xmx512m',
    };
    const words = ['start-dev', '--db=dev-mem', '--http-host=127.0.0.1', `--http-port=${port}`];
    const command = [path.join(keycloak.folder, 'bin/kc.sh'), ...words];
    // A group of its own, so that what kc.sh starts ends with it.
    keycloak.child = spawn('bash', command, { env, detached: true, stdio: ['ignore', log, log] });
    await keycloak.#answers();
    await keycloak.#setUp();
    return keycloak;
  }

  constructor(port) {
    this.url = `http://127.0.0.1:${port}`;
    this.issuer = `${this.url}/realms/${REALM}`;
    this.jwks = `${this.issuer}/protocol/openid-connect/certs`;
    this.folder = fs.mkdtempSync(path.join(os.tmpdir(), 'online-status-keycloak-'));
    this.log = path.join(this.folder, 'log');
  }

  stop() {
    if (this.child?.exitCode === null) process.kill(-this.child.pid, 'SIGKILL');
    fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 10 });
  }

  async #answers() {
    const deadline = Date.now() + 120000;
    for (;;) {
      const answer = await fetch(`${this.url}/realms/master`).catch(() => null);
      if (answer?.ok) return;
      if (Date.now() > deadline || this.child.exitCode !== null) {
        throw new Error(`Keycloak does not start:\n${fs.readFileSync(this.log, 'utf8')}`);
      }
      await sleep(200);
    }
  }

  async #form(realm, form) {
    const address = `${this.url}/realms/${realm}/protocol/openid-connect/token`;
    const answer = await fetch(address, { method: 'POST', body: new URLSearchParams(form) });
    if (!answer.ok) throw new Error(`no token of ${realm}: ${await answer.text()}`);
    return (await answer.json()).access_token;
  }

  // Asks the administration; a thing that was made comes back as its id.
  async admin(method, place, body) {
    const token = await this.#form('master', {
      grant_type: 'password', client_id: 'admin-cli', username: 'admin', password: 'admin',
    });
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    const address = `${this.url}/admin/realms${place}`;
    const answer = await fetch(address, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${place}: ${answer.status} ${text}`);
    return answer.headers.get('location')?.split('/').pop() ?? (text && JSON.parse(text));
  }

  async #setUp() {
    await this.admin('POST', '', { realm: REALM, enabled: true, sslRequired: 'none' });
    const { id } = await this.admin('GET', `/${REALM}`);
    this.realm = id;
    this.client = await this.admin('POST', `/${REALM}/clients`, {
      clientId: 'web', publicClient: true, directAccessGrantsEnabled: true, standardFlowEnabled: false,
    });
    await this.admin('POST', `/${REALM}/users`, {
      username: 'alice', enabled: true, email: 'alice@example.com', emailVerified: true, firstName: 'A', lastName: 'B',
      credentials: [{ type: 'password', value: 'word', temporary: false }],
    });
  }

  // Adds a key, as `rsa-generated` with its settings; its id.
  addKey(kind, config) {
    const list = Object.fromEntries(Object.entries(config).map(([name, value]) => [name, [String(value)]]));
    return this.admin('POST', `/${REALM}/components`, {
      name: `${kind} ${Object.values(config).join(' ')}`, providerId: kind, parentId: this.realm,
      providerType: 'org.keycloak.keys.KeyProvider', config: { enabled: ['true'], active: ['true'], ...list },
    });
  }

  // Takes all keys of the algorithm out of use but the one with that id.
  async disableOthers(algorithm, kept) {
    const keys = await this.admin('GET', `/${REALM}/keys`);
    const others = keys.keys.filter((key) => key.algorithm === algorithm && key.providerId !== kept);
    for (const { providerId } of others) {
      const place = `/${REALM}/components/${providerId}`;
      const component = await this.admin('GET', place);
      component.config.enabled = ['false'];
      await this.admin('PUT', place, component);
    }
  }

  // The algorithm that the client's access tokens are signed with from now on.
  async signWith(algorithm) {
    const place = `/${REALM}/clients/${this.client}`;
    const client = await this.admin('GET', place);
    client.attributes['access.token.signed.response.alg'] = algorithm;
    await this.admin('PUT', place, client);
  }

  // An access token of alice.
  token() {
    return this.#form(REALM, { grant_type: 'password', client_id: 'web', username: 'alice', password: 'word' });
  }
}
