// A real OpenID provider (npm oidc-provider) on loopback, for the test of issuers. It gives ES256 `at+jwt` access tokens to two
// clients by client credentials, for the resource that is asked for.
//
//   node issuer.mjs MODULE PORT
//
// GET /control/rotate      a new key signs; the old one stays published
// GET /control/forget      only the newest key is published
// GET /control/fetches     how often the keys were asked for
import http from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [module, port] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(module));
const issuer = `http://127.0.0.1:${port}`;

let made = 0;
const makeKey = () => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  made += 1;
  return { ...privateKey.export({ format: 'jwk' }), kid: `key-${process.pid}-${made}`, use: 'sig', alg: 'ES256' };
};

const client = (id) => ({
  client_id: id,
  client_secret: `${id}-secret`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: 'client_secret_post',
});

const provider = (keys) =>
  new Provider(issuer, {
    clients: [client('agent'), client('stranger')],
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    jwks: { keys },
    scopes: ['tools'],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: async (_context, resource) => ({
          scope: 'tools',
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 600,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
    extraTokenClaims: async (_context, token) => ({
      tenant: token.clientId === 'agent' ? 'default' : 'ward-7',
      access: { roles: ['tester', 'operator'] },
      kind: 'agent',
    }),
  });

let keys = [makeKey()];
let current = provider(keys).callback();
let fetches = 0;

http
  .createServer((request, response) => {
    const answer = (value) => response.end(JSON.stringify(value));
    switch (request.url) {
      case '/control/rotate':
        keys = [makeKey(), ...keys];
        current = provider(keys).callback();
        return answer(keys.map((key) => key.kid));
      case '/control/forget':
        keys = keys.slice(0, 1);
        current = provider(keys).callback();
        return answer(keys.map((key) => key.kid));
      case '/control/fetches':
        return answer(fetches);
      case '/jwks':
        fetches += 1;
        return current(request, response);
      default:
        return current(request, response);
    }
  })
  .listen(Number(port), '127.0.0.1');
