// A SurrealDB server for tests: the engine that SurrealDB publishes for Node, on RocksDB, behind a front of our own that
// speaks the published RPC protocol over WebSocket and HTTP, in CBOR.
//
//   node server.mjs --folder DIR [--port N] [--user NAME --pass WORD] [--max-message BYTES] [--cert FILE --key FILE]
//
// One line of JSON on standard output says the port and the version. SIGTERM stops it; so does the end of standard
// input, so that no server outlives the tests that have started it.

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer as createPlain } from 'node:http';
import { createServer as createSecure } from 'node:https';
import { parseArgs } from 'node:util';
import { WebSocketServer } from 'ws';
import { answer } from './http.mjs';
import { Rpc } from './rpc.mjs';

const GRACE_MS = 200;
const PING_EVERY_MS = 5_000;
const { values: given } = parseArgs({
  options: {
    folder: { type: 'string' },
    port: { type: 'string', default: '0' },
    user: { type: 'string', default: 'root' },
    pass: { type: 'string', default: 'root' },
    'max-message': { type: 'string', default: process.env.SURREAL_WEBSOCKET_MAX_MESSAGE_SIZE ?? String(128 << 20) },
    cert: { type: 'string' },
    key: { type: 'string' },
  },
});

const rpc = await Rpc.open(`rocksdb://${given.folder}`, given.user, given.pass);
const tls = given.cert && { cert: readFileSync(given.cert), key: readFileSync(given.key) };
const web = tls ? createSecure(tls) : createPlain();
const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: Number(given['max-message']),
  handleProtocols: (offered) => offered.has('cbor') && 'cbor',
});

web.on('request', (request, response) => void answer(rpc, request, response));

web.on('upgrade', (request, socket, head) => {
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((each) => each.trim());
  if (new URL(request.url, 'http://here').pathname !== '/rpc') return void socket.end('HTTP/1.1 404 Not Found\r\n\r\n');
  if (!offered.includes('cbor')) return void socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'); // of three, we speak one
  sockets.handleUpgrade(request, socket, head, (client) => serve(client));
});

function serve(client) {
  const connection = rpc.connect(randomUUID(), (message) => client.send(message));
  const ping = setInterval(() => client.ping(), PING_EVERY_MS);
  client.on('message', async (bytes) => {
    const response = await connection.handle(bytes);
    if (client.readyState === client.OPEN) client.send(response);
  });
  // The library says why it ends the connection, 1009 for a frame too big, but would wait for a client that sends on.
  client.on('error', () => setTimeout(() => client.terminate(), GRACE_MS));
  client.on('close', () => {
    clearInterval(ping);
    void connection.close();
  });
}

let stopping = false;
async function stop() {
  if (stopping) return;
  stopping = true;
  for (const client of sockets.clients) client.close(1001);
  web.close();
  web.closeAllConnections();
  await rpc.close();
  process.exit(0);
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);
process.stdin.on('end', stop).on('error', stop).resume();

web.listen(Number(given.port), '127.0.0.1', () => {
  console.log(JSON.stringify({ port: web.address().port, version: rpc.version }));
});
