// The one worker: it owns the wasm module, the device and the model.
import * as Comlink from 'comlink';
import init, { Lab } from './ctsft-lab.js';
import * as downloads from './download';
import { askForSubgroups } from './subgroups';
import type { EngineKind } from './bindings/EngineKind';
import type { ErrorMessage } from './bindings/ErrorMessage';
import type { LabEvent } from './bindings/LabEvent';
import type { Recipe } from './bindings/Recipe';
import type { Role } from './bindings/Role';

let listener: (event: LabEvent) => void = () => {};
askForSubgroups();
const ready = init({ module_or_path: './ctsft-lab_bg.wasm' }).then(() => new Lab((event) => listener(event)));

/** A result or a refusal: thrown objects do not survive the way to the page. */
export type Outcome<T> = { ok: true; value: T } | { ok: false; error: ErrorMessage };

async function attempt<T>(call: (lab: Lab) => T | Promise<T>): Promise<Outcome<T>> {
  try {
    return { ok: true, value: await call(await ready) };
  } catch (error) {
    const known = typeof error === 'object' && error !== null && 'kind' in error && 'message' in error;
    return { ok: false, error: known ? (error as ErrorMessage) : { kind: 'engine', message: String(error) } };
  }
}

/** Stops the download that is going on. */
let stopping = new AbortController();

const api = {
  listen: (to: (event: LabEvent) => void) => {
    listener = to;
  },
  recall: (trials: string) => attempt((lab) => lab.recall(trials)),
  openModel: (files: File[]) => attempt((lab) => lab.open_model(files)),
  readTable: (role: Role, file: File) =>
    attempt(async (lab) => lab.read_table(role, file.name, new Uint8Array(await file.arrayBuffer()))),
  removeTable: (role: Role) => attempt((lab) => lab.remove_table(role)),
  labels: (role: Role, column: string) => attempt((lab) => lab.labels(role, column)),
  defaultRecipe: () => attempt((lab) => lab.default_recipe()),
  check: (recipe: Recipe) => attempt((lab) => lab.check(recipe)),
  gpu: () => attempt((lab) => lab.gpu()),
  plan: (recipe: Recipe, engine: EngineKind, gpuBytes: number) => attempt((lab) => lab.plan(recipe, engine, gpuBytes)),
  run: (recipe: Recipe, engine: EngineKind, gpuBytes: number) => attempt((lab) => lab.run(recipe, engine, gpuBytes)),
  cancel: () => attempt((lab) => lab.cancel()),
  storedModel: (model: downloads.Downloadable) => attempt(() => downloads.stored(model)),
  removeModel: (model: downloads.Downloadable) => attempt(() => downloads.remove(model)),
  downloadModel: (model: downloads.Downloadable, progress: (progress: downloads.DownloadProgress) => void) => {
    stopping = new AbortController();
    return attempt(() => downloads.download(model, progress, stopping.signal));
  },
  stopDownload: () => stopping.abort(),
  follow: () => attempt((lab) => lab.follow()),
  trustSubgroups: () => attempt((lab) => lab.trust_subgroups()),
  verify: (files: File[], engine: EngineKind) => attempt((lab) => lab.verify(files, engine)),
};

export type LabApi = typeof api;
Comlink.expose(api);
