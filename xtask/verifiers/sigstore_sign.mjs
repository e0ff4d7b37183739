// Signs with @sigstore/sign, unmodified, at the services that a trust config names.
//
// Reads a JSON object from standard input: {"trust_config", "token", "artifact", "out"}: paths, but for the token. Writes a bundle over the
// artifact to out-artifact.json. Statements are left out: this library logs them as entries of a kind that logs of Rekor's second version
// do not take any more.
//
//     node sigstore_sign.mjs < order.json    # needs: npm install @sigstore/bundle @sigstore/sign

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

// Packages are those of the folder that it is started in.
const require = createRequire(join(process.cwd(), 'package.json'));
const { bundleToJSON } = require('@sigstore/bundle');
const { FulcioSigner, MessageSignatureBundleBuilder, RekorWitness, TSAWitness } = require('@sigstore/sign');

const order = JSON.parse(readFileSync(0, 'utf8'));
const { signingConfig } = JSON.parse(readFileSync(order.trust_config, 'utf8'));
const url = (services) => services[0].url;

const signer = new FulcioSigner({
  fulcioBaseURL: url(signingConfig.caUrls),
  identityProvider: { getToken: async () => order.token },
});
const witnesses = [
  new RekorWitness({ rekorBaseURL: url(signingConfig.rekorTlogUrls), majorApiVersion: 2 }),
  new TSAWitness({ tsaBaseURL: url(signingConfig.tsaUrls) }),
];
const builder = new MessageSignatureBundleBuilder({ signer, witnesses });
const bundle = await builder.create({ data: readFileSync(order.artifact) });
writeFileSync(`${order.out}-artifact.json`, JSON.stringify(bundleToJSON(bundle)));
