// The RPC protocol: who is asking, and what the engine answers.
//
// The engine keeps sessions by number. Each connection has one, its default, and those that its client attaches; whom
// the client does not name in a request is the default session. Numbers that clients choose are theirs alone: two
// connections may choose the same one.

import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';
import { Tagged } from '@surrealdb/cbor';
import { encode, fields, map, NONE, UUID, UUID_BYTES, word } from './cbor.mjs';

const require = createRequire(import.meta.url);

// What a stranger may ask for; all else needs a sign-in first, as on a server that does not let guests in.
const OPEN_TO_ALL = new Set(
  'ping version use signin signup authenticate refresh invalidate reset let set unset attach detach sessions'.split(' '),
);
const SIGNS_IN = new Set(['signin', 'signup', 'authenticate', 'refresh']);
const SIGNS_OUT = new Set(['invalidate', 'reset']);

const failure = (code, kind, details, message) => encode({ code, kind, details, message, cause: NONE });
const unreadable = () => failure(-32700, 'Validation', { kind: 'Parse' }, 'Parse error');
const invalid = () => failure(-32600, 'Validation', { kind: 'InvalidRequest' }, 'Invalid request');
const parameters = (what) => failure(-32603, 'Validation', { kind: 'InvalidParams' }, what);
const internal = (error) => failure(-32000, 'Internal', NONE, String(error.message));
const stranger = () =>
  failure(
    -32002,
    'NotAllowed',
    { kind: 'Auth', details: { kind: 'NotAllowed', details: { actor: 'anonymous', action: 'process', resource: 'query' } } },
    'Anonymous access not allowed: Not enough permissions to perform this action',
  );
const uuid = (text) => encode(new Tagged(UUID, text));
const NOTHING = encode(NONE);

/** Load the library for this machine. The package picks it, but keeps its entry to itself. */
function load() {
  const base = '@surrealdb/node/dist/surrealdb-node';
  const folder = new URL(`./node_modules/${base}`, import.meta.url).pathname;
  const kinds = { linux: ['linux', '-gnu', '-musl'], darwin: ['darwin', ''], win32: ['win32', '-msvc'] };
  const [system, ...ends] = kinds[process.platform];
  const errors = [];
  for (const end of ends) {
    try {
      return require(`${folder}.${system}-${process.arch}${end}.node`).SurrealNodeEngine;
    } catch (error) {
      errors.push(error);
    }
  }
  throw new AggregateError(errors, 'the engine does not load here');
}

/** The engine, and which of its sessions belongs to whom. */
export class Rpc {
  #engine;
  #listeners = new Map(); // of each session of the engine, who hears what its LIVE queries see
  #connections = new Set();
  #running = new Set();

  /** Open the engine at a place, and give its root user a name where it has none. */
  static async open(place, user, password) {
    const Engine = load();
    const rpc = new Rpc();
    rpc.#engine = await Engine.connect(place, { capabilities: { guest_access: false, functions: true } });
    rpc.version = `surrealdb-${Engine.version()}`;
    void rpc.#listen(await rpc.#engine.notifications());
    const sql = `DEFINE USER IF NOT EXISTS \`${user}\` ON ROOT PASSWORD ${JSON.stringify(password)} ROLES OWNER`;
    const made = await rpc.execute({ method: 'query', params: encode([sql, {}]) });
    if (made.error !== undefined) throw new Error('the root user cannot be made');
    return rpc;
  }

  /** Have the engine carry out a request; return `result` or `error`, as bytes. */
  async execute({ method, ...rest }) {
    const running = this.#engine.execute(map({ method: encode(method), ...rest }));
    this.#running.add(running);
    try {
      const bytes = await running;
      const error = isFailure(bytes);
      return error === undefined ? { result: bytes } : { error };
    } catch (error) {
      return { error: error.message === 'Invalid request' ? invalid() : internal(error) };
    } finally {
      this.#running.delete(running);
    }
  }

  /** Return a connection, whose notifications go to a function. */
  connect(id, tell) {
    const connection = new Connection(this, id, tell, () => this.#connections.delete(connection));
    this.#connections.add(connection);
    return connection;
  }

  /** Say who hears of the LIVE queries of a session; undefined for nobody. */
  hear(session, listener) {
    if (listener === undefined) this.#listeners.delete(session);
    else this.#listeners.set(session, listener);
  }

  async #listen(notifications) {
    for (let note; (note = await notifications.recv()) !== null;) {
      const session = fields(note).get('session');
      this.#listeners.get(session && number(session))?.(note);
    }
  }

  /** End all connections, wait for what the engine is carrying out, and let go of its files. */
  async close() {
    await Promise.all([...this.#connections].map((each) => each.close()));
    while (this.#running.size) await Promise.allSettled(this.#running);
    await this.#engine.free();
  }
}

/** Return the error in an engine's answer; undefined where it is a result. */
function isFailure(bytes) {
  if (bytes[0] !== 0xa1 || bytes[1] !== 0x65) return undefined;
  const error = fields(bytes).get('error');
  if (error === undefined || error[0] >> 5 !== 5) return undefined;
  const inside = fields(error);
  return ['code', 'kind', 'message'].every((name) => inside.has(name)) ? error : undefined;
}

/** One session of the engine, and whether somebody has signed in to it. */
class Session {
  constructor(number) {
    this.number = number;
    this.known = false;
    this.settled = Promise.resolve(); // of signing in and out; later requests wait for it
  }

  /** Have later requests wait, until the function that is returned is called. */
  unsettle() {
    let settle;
    this.settled = new Promise((resolve) => (settle = resolve));
    return settle;
  }
}

/** What one client may see: its sessions and its transactions. */
export class Connection {
  #rpc;
  #tell;
  #sessions = new Map(); // by the number that the client has chosen, in hexadecimal; '' is the default
  #transactions = new Set();
  #pending = new Set();
  #closed;
  #left;
  #opened;

  constructor(rpc, id, tell, left) {
    this.#rpc = rpc;
    this.#tell = tell;
    this.#left = left;
    this.#opened = this.#attach('', undefined, id);
  }

  /** Answer a message of the client. */
  async handle(bytes) {
    let request;
    try {
      request = fields(bytes);
    } catch {
      return map({ error: unreadable() });
    }
    const [id, session] = [request.get('id'), request.get('session')].map((value) => (empty(value) ? undefined : value));
    const answer = this.#answer(request, session);
    this.#pending.add(answer);
    try {
      return map({ id, session, ...(await answer) });
    } finally {
      this.#pending.delete(answer);
    }
  }

  async #answer(request, named) {
    await this.#opened;
    if (this.#closed) return { error: internal(new Error('The connection is closed')) };
    const method = word(request.get('method'));
    if (method === undefined) return { error: invalid() };
    const key = named ? number(named) : '';
    if (method === 'sessions') return { result: Buffer.concat([Buffer.of(0x9f), ...this.#named(), Buffer.of(0xff)]) };
    if (method === 'attach') return this.#attach(key, named, randomUUID());
    const session = this.#sessions.get(key);
    if (session === undefined) return this.#rpc.execute({ method, params: request.get('params'), session: named });
    if (method === 'detach') return named ? this.#detach(key) : { error: parameters('Expected a session ID') };
    const signs = SIGNS_IN.has(method) || SIGNS_OUT.has(method);
    const [before, settle] = [session.settled, signs && session.unsettle()];
    try {
      await before;
      return await this.#carryOut(method, request, session);
    } finally {
      if (signs) settle();
    }
  }

  async #carryOut(method, request, session) {
    if (!session.known && !OPEN_TO_ALL.has(method)) return { error: stranger() };
    const txn = empty(request.get('txn')) ? undefined : request.get('txn');
    if (txn && !this.#transactions.has(number(txn))) return { error: parameters('Transaction not found') };
    if ((method === 'commit' || method === 'cancel') && !this.#forget(request.get('params')))
      return { error: parameters('Transaction not found') };
    const answer = await this.#rpc.execute({ method, params: request.get('params'), txn, session: session.number });
    if (answer.error === undefined && SIGNS_IN.has(method)) session.known = true;
    if (answer.error === undefined && SIGNS_OUT.has(method)) session.known = false;
    if (method === 'begin' && answer.result) this.#transactions.add(number(answer.result));
    return answer;
  }

  *#named() {
    for (const session of this.#sessions.values()) if (session.named) yield session.named;
  }

  async #attach(key, named, id) {
    if (key === '' && this.#sessions.has('')) return { error: parameters('Expected a session ID') };
    if (this.#sessions.has(key)) return this.#rpc.execute({ method: 'attach', session: this.#sessions.get(key).number });
    const session = new Session(uuid(id));
    session.named = named && Buffer.from(named);
    this.#sessions.set(key, session);
    const answer = await this.#rpc.execute({ method: 'attach', session: session.number });
    this.#rpc.hear(id, (note) => {
      if (!this.#closed) this.#tell(map({ session: session.named, result: note }));
    });
    session.forget = () => this.#rpc.hear(id, undefined);
    return answer;
  }

  async #detach(key) {
    const session = this.#sessions.get(key);
    this.#sessions.delete(key);
    session.forget();
    return this.#rpc.execute({ method: 'detach', session: session.number });
  }

  /** Forget the transaction that parameters name; return whether it was this connection's. */
  #forget(params) {
    return params !== undefined && params[0] === 0x81 && this.#transactions.delete(number(params.subarray(1)));
  }

  /** End all that the connection has open, once what it has asked for is done: that goes on without it. */
  close() {
    return (this.#closed ??= this.#close());
  }

  async #close() {
    await this.#opened;
    await Promise.allSettled(this.#pending);
    for (const txn of this.#transactions) {
      const params = Buffer.concat([Buffer.of(0x81), uuid(txn)]);
      await this.#rpc.execute({ method: 'cancel', params, session: this.#sessions.get('').number });
    }
    for (const key of [...this.#sessions.keys()]) await this.#detach(key);
    this.#left();
  }
}

const empty = (value) => value === undefined || Buffer.compare(value, NOTHING) === 0 || value[0] === 0xf6;

/** Return the UUID that a value is, in either of the two forms that it is sent in. */
function number(bytes) {
  const form = bytes[0] === 0xd8 ? bytes[1] : undefined;
  if (form === UUID) return word(bytes.subarray(2))?.toLowerCase() ?? '';
  if (form !== UUID_BYTES) return '';
  return Buffer.from(bytes.subarray(-16)).toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
