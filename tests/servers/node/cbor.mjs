// What the front needs of CBOR: to take a map's values out of a message, and to put them into another, byte for byte.
// Values that clients and engine exchange are never decoded: no decoder but theirs has a say in what they are.

import { encode, Tagged } from '@surrealdb/cbor';

export const NONE = new Tagged(6, null);
export const UUID = 9;
export const UUID_BYTES = 37;
const BREAK = 0xff;

/** Return where the item ends that starts at an offset. */
function end(bytes, at, depth = 0) {
  if (depth > 256) throw new RangeError('nested too deeply');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const major = view.getUint8(at) >> 5;
  const short = view.getUint8(at) & 31;
  let length = short;
  let next = at + 1;
  if (short === 24) length = view.getUint8(next++);
  else if (short === 25) [length, next] = [view.getUint16(next), next + 2];
  else if (short === 26) [length, next] = [view.getUint32(next), next + 4];
  else if (short === 27) [length, next] = [Number(view.getBigUint64(next)), next + 8];
  else if (short === 31 && major >= 2 && major <= 5) length = Infinity;
  else if (short > 27) throw new RangeError('not CBOR');
  if (major === 2 || major === 3) {
    if (length !== Infinity) next += length;
  }
  if (next > bytes.length) throw new RangeError('the message is cut off');
  if (major <= 1 || major === 7 || ((major === 2 || major === 3) && length !== Infinity)) return next;
  let left = major === 6 ? 1 : major === 5 ? length * 2 : length;
  for (; left > 0; left--) {
    if (length === Infinity && major !== 6 && bytes[next] === BREAK) return next + 1;
    next = end(bytes, next, depth + 1);
  }
  return next;
}

/** Return a short text that stands at an offset, and where it ends. */
function text(bytes, at) {
  const close = end(bytes, at);
  if (bytes[at] >> 5 !== 3) throw new RangeError('a key that is no text');
  const head = { 24: 2, 25: 3, 26: 5 }[bytes[at] & 31] ?? 1;
  return [new TextDecoder().decode(bytes.subarray(at + head, close)), close];
}

/** Return the values of a map by their keys, each as the bytes that it stands in. */
export function fields(bytes) {
  if (bytes.length === 0 || bytes[0] >> 5 !== 5) throw new RangeError('not a map');
  if (end(bytes, 0) !== bytes.length) throw new RangeError('more than one item');
  const open = (bytes[0] & 31) === 31;
  const head = { 24: 2, 25: 3, 26: 5 }[bytes[0] & 31] ?? 1;
  const found = new Map();
  for (let at = head; at < bytes.length && !(open && bytes[at] === BREAK);) {
    const [key, start] = text(bytes, at);
    at = end(bytes, start);
    found.set(key, bytes.subarray(start, at));
  }
  return found;
}

/** Return a map of at most 23 values that are CBOR already. */
export function map(values) {
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  return Buffer.concat([Buffer.of(0xa0 | given.length), ...given.flatMap(([key, value]) => [encode(key), value])]);
}

/** Return a short text that a value is, or undefined for another value. */
export function word(bytes) {
  return bytes?.length && bytes[0] >> 5 === 3 ? text(bytes, 0)[0] : undefined;
}

export { encode };
