// The one ONNX model that the benchmark needs, written as its protocol buffer (onnx.proto3 names the fields).

const number = (value: number): number[] => (value < 128 ? [value] : [(value % 128) | 128, ...number(Math.floor(value / 128))]);
const varint = (field: number, value: number) => Uint8Array.from([...number(field << 3), ...number(value)]);
function bytes(field: number, content: Uint8Array): Uint8Array {
  const head = [...number((field << 3) | 2), ...number(content.length)];
  const out = new Uint8Array(head.length + content.length);
  out.set(head);
  out.set(content, head.length);
  return out;
}
const text = (field: number, content: string) => bytes(field, new TextEncoder().encode(content));
function joined(...parts: Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const FLOAT = 1;
const matrix = (field: number, name: string, rows: number, columns: number) => {
  const shape = joined(...[rows, columns].map((size) => bytes(1, varint(1, size))));
  return bytes(field, joined(text(1, name), bytes(2, bytes(1, joined(varint(1, FLOAT), bytes(2, shape))))));
};

/** `y [m, n] = x [m, k] · w [k, n]`, w a constant. */
export function product(m: number, n: number, k: number, w: Float32Array): Uint8Array {
  const node = joined(text(1, 'x'), text(1, 'w'), text(2, 'y'), text(4, 'MatMul'));
  const weights = joined(varint(1, k), varint(1, n), varint(2, FLOAT), text(8, 'w'), bytes(9, new Uint8Array(w.buffer)));
  const graph = joined(bytes(1, node), text(2, 'product'), bytes(5, weights), matrix(11, 'x', m, k), matrix(12, 'y', m, n));
  return joined(varint(1, 8), bytes(7, graph), bytes(8, varint(2, 13)));
}
