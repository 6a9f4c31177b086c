// Builds both packages: ES modules and CommonJS, minified, and their types.
import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { minify } from 'terser';

const here = fileURLToPath(new URL('.', import.meta.url));
const require = createRequire(import.meta.url);

// Members that only the client's own files use; none is one of the application, the wire or the platform.
const INTERNAL = `
wantedBy record call shown asked setTime socket believeAt recheck renew forget waits beyond undone learn hasNews takeNews count
withToken upgraded welcomedAt told sentAt heardAt pingId pongBy excused
askToken askRoute hangUp emit requests deadline doubt choose overTold diagnose touched putAside back gotToken gotRoute diagnosed
opened heard tick lost due limit flush answered fail poke done no
`.trim().split(/\s+/);

for (const [name, entries] of [['client', ['index', 'cbor']], ['react', ['index']]]) {
  const root = `${here}packages/${name}/`;
  rmSync(`${root}dist`, { recursive: true, force: true });
  for (const format of ['esm', 'cjs']) {
    await build({
      entryPoints: entries.map((entry) => `${root}src/${entry}.ts`),
      outdir: `${root}dist`,
      outExtension: { '.js': format === 'esm' ? '.js' : '.cjs' },
      format,
      bundle: true,
      minify: true,
      target: 'es2022',
      external: ['react', '@online-status/client'],
      mangleProps: name === 'client' ? new RegExp(`^(${INTERNAL.join('|')})$`) : undefined,
      legalComments: 'none',
      tsconfigRaw: { compilerOptions: { useDefineForClassFields: false } },
    });
  }
  for (const file of readdirSync(`${root}dist`)) {
    const { code } = await minify(readFileSync(`${root}dist/${file}`, 'utf8'), {
      module: file.endsWith('.js'),
      ecma: 2020,
      compress: { passes: 3, reduce_funcs: false },
    });
    writeFileSync(`${root}dist/${file}`, code);
  }
  execFileSync(process.execPath, [require.resolve('typescript/bin/tsc'), '-p', root], { stdio: 'inherit' });
  // CommonJS has types of its own (.d.cts), whose imports name them.
  for (const file of readdirSync(`${root}dist`).filter((file) => file.endsWith('.d.ts'))) {
    const text = readFileSync(`${root}dist/${file}`, 'utf8');
    writeFileSync(`${root}dist/${file.replace('.d.ts', '.d.cts')}`, text.replace(/(from '\.\/[^']*)\.js'/g, "$1.cjs'"));
  }
  cpSync(`${here}../../LICENSE`, `${root}LICENSE`);
}
