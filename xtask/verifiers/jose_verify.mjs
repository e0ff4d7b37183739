// Verifies signed artifacts with jose, unmodified, from the key set alone.
//
// Reads a JSON list of cases from standard input: {"name", "jws", "jwks"} and perhaps "payload" and "sent"; all but the name are paths.
// Prints one JSON verdict per line: {"name", "ok", "error"}. A payload is what must have been signed, byte for byte, and must
// be what RFC 8785 makes of itself, and of the text that was sent, written as that RFC describes it: by this language's own JSON.
//
//     node jose_verify.mjs < cases.json    # needs: npm install jose

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

// Packages are those of the folder that it is started in.
const require = createRequire(join(process.cwd(), 'package.json'));
const { compactVerify, createLocalJWKSet, flattenedVerify } = await import(pathToFileURL(require.resolve('jose')).href);

// Members are ordered by UTF-16 code units, which is how strings compare here.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const members = Object.keys(value).sort();
  return `{${members.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(',')}}`;
}

async function verify(entry) {
  const keys = createLocalJWKSet(JSON.parse(readFileSync(entry.jwks, 'utf8')));
  const text = readFileSync(entry.jws, 'utf8');
  const options = { algorithms: ['ES256'] };
  const { payload } = text.startsWith('{')
    ? await flattenedVerify(JSON.parse(text), keys, options)
    : await compactVerify(text, keys, options);
  if (entry.payload) {
    const expected = readFileSync(entry.payload);
    if (!expected.equals(Buffer.from(payload))) throw new Error('another payload');
    if (canonical(JSON.parse(expected.toString('utf8'))) !== expected.toString('utf8')) throw new Error('not canonical');
    if (entry.sent && canonical(JSON.parse(readFileSync(entry.sent, 'utf8'))) !== expected.toString('utf8')) {
      throw new Error('not what was sent');
    }
  }
}

for (const entry of JSON.parse(readFileSync(0, 'utf8'))) {
  const verdict = { name: entry.name, ok: true, error: null };
  try {
    await verify(entry);
  } catch (error) {
    // Whatever it is refused with, it is refused.
    verdict.ok = false;
    verdict.error = `${error.code ?? error.name}: ${error.message}`;
  }
  console.log(JSON.stringify(verdict));
}
