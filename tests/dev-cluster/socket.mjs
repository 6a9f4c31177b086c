// A WebSocket client (RFC 6455) that is as much as the tests need: text frames of one fragment, and
// what came is kept until it is asked for, or goes to `heard` when there is one. It answers pings, so
// that a session lives.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import http from 'node:http';

const PATIENCE = 30000;

export class Socket {
  // Connects with a token; `address` is a whole WebSocket URL.
  static open(address, token) {
    const url = new URL(address);
    const headers = {
      connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13',
      'sec-websocket-key': crypto.randomBytes(16).toString('base64'), authorization: `Bearer ${token}`,
    };
    return new Promise((resolve, reject) => {
      const request = http.request({ host: url.hostname, port: url.port, path: url.pathname, headers });
      request.setTimeout(PATIENCE, () => request.destroy(new Error(`${address} does not answer`)));
      request.on('error', reject);
      request.on('response', (response) => reject(new Error(`${address} answers ${response.statusCode}`)));
      request.on('upgrade', (_, stream, head) => {
        stream.setTimeout(0);
        resolve(new Socket(stream, head));
      });
      request.end();
    });
  }

  constructor(stream, head) {
    this.stream = stream;
    this.bytes = head;
    this.messages = [];
    this.heard = (message) => this.messages.push(message);
    this.closed = null;
    this.waiting = [];
    stream.on('data', (data) => {
      this.bytes = Buffer.concat([this.bytes, data]);
      this.#read();
    });
    stream.on('error', () => {});
    stream.on('close', () => this.#end({ code: 1006, reason: '' }));
    this.#read();
  }

  #end(how) {
    this.closed ??= how;
    this.waiting.splice(0).forEach((wake) => wake());
  }

  #read() {
    for (;;) {
      const { bytes } = this;
      if (bytes.length < 2) return;
      let [at, length] = [2, bytes[1] & 127];
      if (length === 126) {
        if (bytes.length < 4) return;
        [at, length] = [4, bytes.readUInt16BE(2)];
      }
      assert.ok(length < 127 || at === 4, 'a frame of more than 64 KiB');
      if (bytes.length < at + length) return;
      const payload = bytes.subarray(at, at + length);
      this.bytes = bytes.subarray(at + length);
      switch (bytes[0] & 15) {
        case 1:
          this.heard(JSON.parse(payload));
          break;
        case 8:
          this.#end({ code: payload.readUInt16BE(0), reason: payload.toString('utf8', 2) });
          this.stream.end();
          break;
        case 9:
          this.#write(10, payload);
      }
      this.waiting.splice(0).forEach((wake) => wake());
    }
  }

  // A client's frames are masked; a mask of zeros is one.
  #write(opcode, payload) {
    const length = payload.length < 126 ? [payload.length | 128] : [254, payload.length >> 8, payload.length & 255];
    this.stream.write(Buffer.concat([Buffer.from([128 | opcode, ...length, 0, 0, 0, 0]), payload]));
  }

  send(message) {
    this.#write(1, Buffer.from(JSON.stringify(message)));
  }

  // What `look` finds, once it finds something.
  async #until(what, look) {
    for (const deadline = Date.now() + PATIENCE; ; ) {
      const found = look();
      if (found !== undefined) return found;
      const left = deadline - Date.now();
      assert.ok(left > 0, `no ${what}; there were ${JSON.stringify(this.messages)}, closed: ${JSON.stringify(this.closed)}`);
      await new Promise((resolve) => {
        this.waiting.push(resolve);
        setTimeout(resolve, Math.min(left, 500));
      });
    }
  }

  // The first message that fits; it and all before it are taken.
  message(what, fits) {
    return this.#until(what, () => {
      const at = this.messages.findIndex(fits);
      return at < 0 ? undefined : this.messages.splice(0, at + 1).pop();
    });
  }

  // The close code and reason, once it is closed.
  end() {
    return this.#until('close', () => this.closed ?? undefined);
  }

  // Reads and answers nothing any more; the connection stays.
  vanish() {
    this.stream.pause();
  }

  // Breaks off, without a close frame.
  destroy() {
    this.stream.destroy();
  }
}
