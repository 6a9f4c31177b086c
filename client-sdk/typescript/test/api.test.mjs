// The API reference that is committed is that of the code.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

test('the reference is that of the code', () => {
  const top = fileURLToPath(new URL('..', import.meta.url));
  const out = mkdtempSync(join(tmpdir(), 'online-status-api-'));
  try {
    execFileSync(process.execPath, [join(top, 'node_modules/typedoc/bin/typedoc'), '--out', out], { cwd: top, stdio: 'pipe' });
    const pages = (folder) => Object.fromEntries(readdirSync(folder, { recursive: true }).filter((file) => file.endsWith('.md')).map((file) => [file, readFileSync(join(folder, file), 'utf8')]));
    assert.deepEqual(pages(out), pages(join(top, 'api')), 'npm run api');
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
});
