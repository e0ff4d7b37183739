// Verifies bundles with @sigstore/verify, unmodified.
//
// Reads a JSON list of cases from standard input: {"name", "bundle", "trust_config", "artifact", "identity", "issuer"} and
// perhaps "key"; all but identity and issuer are paths, a key's to PEM. Prints one JSON verdict per line:
// {"name", "ok", "error"}.
//
//     node sigstore_verify.mjs < cases.json    # needs: npm install @sigstore/bundle @sigstore/verify @sigstore/protobuf-specs

import { createHash, createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

// Packages are those of the folder that it is started in.
const require = createRequire(join(process.cwd(), 'package.json'));
const { bundleFromJSON } = require('@sigstore/bundle');
const { TrustedRoot } = require('@sigstore/protobuf-specs');
const { Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify');

const read = (path) => JSON.parse(readFileSync(path, 'utf8'));

// Patterns are what this library matches with; ours are meant to the letter.
const exactly = (text) => `^${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`;

function verify(entry) {
  const config = read(entry.trust_config);
  const key = entry.key && createPublicKey(readFileSync(entry.key));
  const given = () => ({ publicKey: key, validFor: () => true });
  const material = toTrustMaterial(TrustedRoot.fromJSON(config.trustedRoot), key ? given : undefined);
  const bundle = bundleFromJSON(read(entry.bundle));
  const artifact = readFileSync(entry.artifact);
  const policy = key
    ? undefined
    : { subjectAlternativeName: exactly(entry.identity), extensions: { issuer: entry.issuer } };
  const options = key ? { ctlogThreshold: 0 } : {};
  const statement = bundle.content.$case === 'dsseEnvelope';
  new Verifier(material, options).verify(toSignedEntity(bundle, statement ? undefined : artifact), policy);
  if (statement) {
    // What the statement is about is left to the caller.
    const { subject } = JSON.parse(bundle.content.dsseEnvelope.payload.toString('utf8'));
    const digest = createHash('sha256').update(artifact).digest('hex');
    if (!subject.some((s) => s.digest.sha256 === digest)) {
      throw new Error("no subject of the statement has the artifact's digest");
    }
  }
}

for (const entry of JSON.parse(readFileSync(0, 'utf8'))) {
  const verdict = { name: entry.name ?? entry.bundle, ok: true, error: null };
  try {
    verify(entry);
  } catch (error) {
    // Whatever it is refused with, it is refused.
    verdict.ok = false;
    verdict.error = `${error.code ?? error.name}: ${error.message}`;
  }
  console.log(JSON.stringify(verdict));
}
