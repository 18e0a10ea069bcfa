// The page's handle on the worker.
import * as Comlink from 'comlink';
import type { LabApi, Outcome } from './worker';
import type { ErrorMessage } from './bindings/ErrorMessage';

export const lab = Comlink.wrap<LabApi>(new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }));

/** A refusal from the worker, in words for the user. */
export class Refusal extends Error {
  readonly kind: ErrorMessage['kind'];
  constructor(error: ErrorMessage) {
    super(error.message);
    this.kind = error.kind;
  }
}

/** The value of an outcome; a refusal is thrown. */
export async function take<T>(outcome: Promise<Outcome<T>>): Promise<T> {
  const result = await outcome;
  if (result.ok) return result.value;
  throw new Refusal(result.error);
}
