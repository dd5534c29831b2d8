// The same over HTTP: `POST /rpc` with CBOR, each request in a session of its own, and what monitors ask for.

import { randomUUID } from 'node:crypto';
import { encode, fields, map } from './cbor.mjs';

const BODY_LIMIT = 4 << 20; // as a real server has it
const CBOR = 'application/cbor';

/** Answer one request. */
export async function answer(rpc, request, response) {
  const path = new URL(request.url, 'http://here').pathname;
  const say = (status, body = '', type = 'text/plain') => response.writeHead(status, { 'content-type': type }).end(body);
  if (request.method === 'GET' && (path === '/health' || path === '/status')) return say(200);
  if (request.method === 'GET' && path === '/version') return say(200, rpc.version);
  if (path !== '/rpc') return say(404);
  if (request.method !== 'POST') return say(405);
  if (request.headers['content-type'] !== CBOR || (request.headers.accept ?? CBOR) !== CBOR) return say(415);
  const parts = [];
  let size = 0;
  try {
    for await (const part of request) {
      size += part.length;
      if (size > BODY_LIMIT) return say(413, 'length limit exceeded');
      parts.push(part);
    }
  } catch {
    return undefined; // the client is gone
  }
  const connection = rpc.connect(randomUUID(), () => {});
  try {
    for (const [method, ...params] of opening(request.headers)) {
      const done = await connection.handle(map({ method: encode(method), params: encode(params) }));
      if (fields(done).has('error') && method !== 'use') return say(401, 'There was a problem with authentication');
    }
    return say(200, await connection.handle(Buffer.concat(parts)), CBOR);
  } finally {
    await connection.close();
  }
}

/** Yield what the headers of a request ask for before it: to be somebody, and where. */
function* opening(headers) {
  const [kind, word] = (headers.authorization ?? '').split(' ');
  if (kind === 'Bearer') yield ['authenticate', word];
  if (kind === 'Basic') {
    const [user, ...rest] = Buffer.from(word, 'base64').toString().split(':');
    const at = { NS: headers['surreal-auth-ns'], DB: headers['surreal-auth-db'] };
    const where = Object.fromEntries(Object.entries(at).filter(([, value]) => value));
    yield ['signin', { user, pass: rest.join(':'), ...where }];
  }
  if (headers['surreal-ns']) yield ['use', headers['surreal-ns'], headers['surreal-db'] ?? null];
}
