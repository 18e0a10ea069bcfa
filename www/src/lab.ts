// The page's handle on the worker.
import * as Comlink from 'comlink';
import type { LabApi, Outcome } from './worker';
import type { ErrorMessage } from './bindings/ErrorMessage';
import type { LabEvent } from './bindings/LabEvent';
import type { Role } from './bindings/Role';

/** Milliseconds that a cancelled run has for an end of its own, between two of its steps. */
const PATIENCE = 300;

/** Where it is kept which kernels were fastest on the GPUs seen here. */
const TRIALS = 'gpu-trials';

/** What happens, as far as the page shows it. */
export type Shown = Exclude<LabEvent, { type: 'tried' }>;

/** What the worker has open, for the one that may take its place. */
const open: { model?: File[]; tables: Map<Role, File>; listener?: Parameters<LabApi['listen']>[0] } = { tables: new Map() };

function start() {
  const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
  let end = () => {};
  const ended = new Promise<Outcome<never>>((resolve) => {
    end = () => {
      worker.terminate();
      resolve({ ok: false, error: { kind: 'cancelled', message: 'the worker was ended' } });
    };
  });
  const api = Comlink.wrap<LabApi>(worker);
  const reopen = async () => {
    await api.recall(localStorage.getItem(TRIALS) ?? '');
    if (open.listener) await api.listen(open.listener);
    for (const [role, file] of open.tables) await api.readTable(role, file);
    if (open.model) await api.openModel(open.model);
  };
  return { api, end, ended, ready: reopen() };
}

let current = start();
let run: Promise<unknown> = Promise.resolve();

const call = <T>(by: (api: Comlink.Remote<LabApi>) => Promise<Outcome<T>>): Promise<Outcome<T>> => {
  const { api, ended, ready } = current;
  return Promise.race([ready.then(() => by(api)), ended]);
};

/** One of the worker's functions as the page calls it. */
const pass =
  <A extends unknown[], T>(of: (api: Comlink.Remote<LabApi>) => (...args: A) => Promise<Outcome<T>>) =>
  (...args: A) =>
    call((api) => of(api)(...args));

/** The worker's functions. Where it is ended under one, that one has been cancelled. */
export const lab = {
  listen: (listener: (event: Shown) => void) => {
    open.listener = Comlink.proxy((event: LabEvent) => {
      if (event.type === 'tried') localStorage.setItem(TRIALS, event.trials);
      else listener(event);
    });
    return current.api.listen(open.listener);
  },
  openModel: async (files: File[]) => {
    const outcome = await call((api) => api.openModel(files));
    if (outcome.ok) open.model = files;
    return outcome;
  },
  readTable: async (role: Role, file: File) => {
    const outcome = await call((api) => api.readTable(role, file));
    if (outcome.ok) open.tables.set(role, file);
    return outcome;
  },
  removeTable: (role: Role) => {
    open.tables.delete(role);
    return call((api) => api.removeTable(role));
  },
  labels: pass((api) => api.labels),
  defaultRecipe: pass((api) => api.defaultRecipe),
  check: pass((api) => api.check),
  gpu: pass((api) => api.gpu),
  plan: pass((api) => api.plan),
  run: (...of: Parameters<LabApi['run']>) => {
    const outcome = call((api) => api.run(...of));
    run = outcome;
    return outcome;
  },
  /** Ends the run. Its step may take long and hears nothing: then the worker is ended and another takes its place. */
  cancel: async () => {
    const cancelled = current;
    void cancelled.api.cancel();
    const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE, 'over'));
    if ((await Promise.race([run, patience])) !== 'over' || cancelled !== current) return;
    current = start();
    cancelled.end();
  },
  storedModel: pass((api) => api.storedModel),
  removeModel: pass((api) => api.removeModel),
  downloadModel: pass((api) => api.downloadModel),
  stopDownload: () => current.api.stopDownload(),
  follow: pass((api) => api.follow),
  verify: pass((api) => api.verify),
};

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
