// What happens to a cluster while clients are connected to it.
import { createServer, connect as dial } from 'node:net';
import { until } from '../site.mjs';
import { Plain } from './fleet.mjs';

const EDGES = ['edge-1', 'edge-2', 'edge-3'];
export const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Every edge serves its share again. */
export async function restored(cluster) {
  const { COORDINATOR_URL } = cluster.env();
  await until('all edges have their vnodes', async () => {
    const { nodes } = await fetch(`${COORDINATOR_URL}/nodes`).then((answer) => answer.json());
    return nodes.length === EDGES.length && nodes.every((node) => node.moving === 0 && node.vnodes >= Math.floor(4096 / EDGES.length));
  }, 60_000);
}

/** Proxies in front of edges that can stop to pass anything on, without a word to either side. */
export class Proxies {
  #ports = new Map();
  #pipes = new Set();
  #servers = [];
  cutting = false;

  /** The port of a proxy in front of this one. */
  async #port(port) {
    if (!this.#ports.has(port)) {
      this.#ports.set(port, new Promise((resolve) => {
        const server = createServer((near) => {
          const far = dial(port, '127.0.0.1');
          const pipe = { near, far, cut: false };
          this.#pipes.add(pipe);
          const pass = (from, to) => {
            from.on('data', (data) => pipe.cut || to.write(data));
            from.on('close', () => pipe.cut || to.destroy());
            from.on('error', () => {});
          };
          pass(near, far);
          pass(far, near);
        });
        this.#servers.push(server);
        server.listen(0, '127.0.0.1', () => resolve(server.address().port));
      }));
    }
    return this.#ports.get(port);
  }

  /** Knows the way to the proxies: a WebSocket class. The ports have to be prepared. */
  async client(addresses) {
    const to = new Map();
    for (const address of addresses) to.set(new URL(address).port, await this.#port(Number(new URL(address).port)));
    return {
      WebSocket: class extends Plain {
        constructor(address, protocols) {
          const url = new URL(address);
          url.port = to.get(url.port) ?? url.port;
          super(url.href, protocols);
        }
      },
    };
  }

  /** Those connections that there are now are dead, and nobody is told. */
  cut() {
    for (const pipe of this.#pipes) pipe.cut = true;
    return this.#pipes.size;
  }

  close() {
    for (const { near, far } of this.#pipes) {
      near.destroy();
      far.destroy();
    }
    for (const server of this.#servers) server.close();
  }
}

export const faults = {
  'roll-edges': {
    async inject(cluster) {
      for (const edge of EDGES) {
        await cluster.begin('stop', edge);
        await cluster.begin('start', edge);
        await restored(cluster);
      }
    },
  },
  'kill-edge': {
    async inject(cluster) {
      await pause(2);
      await cluster.begin('kill', 'edge-2');
      await pause(20);
      await cluster.begin('start', 'edge-2');
      await restored(cluster);
    },
  },
  redis: {
    async inject(cluster) {
      await pause(2);
      await cluster.begin('kill', 'redis');
      await pause(20);
      await cluster.begin('start', 'redis');
      await pause(10);
    },
    heal: restored,
  },
  kafka: {
    async inject(cluster) {
      await pause(2);
      await cluster.begin('kill', 'kafka');
      await pause(15);
      await cluster.begin('start', 'kafka');
      await pause(10);
    },
    heal: restored,
  },
};
