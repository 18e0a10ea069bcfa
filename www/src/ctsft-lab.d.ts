// What wasm-bindgen makes of src/web/lab.rs. Values cross as the generated types of ./bindings.
import type { Check } from './bindings/Check';
import type { EngineKind } from './bindings/EngineKind';
import type { LabEvent } from './bindings/LabEvent';
import type { ModelSummary } from './bindings/ModelSummary';
import type { Plan } from './bindings/Plan';
import type { Recipe } from './bindings/Recipe';
import type { Record } from './bindings/Record';
import type { Role } from './bindings/Role';
import type { TablePreview } from './bindings/TablePreview';

export default function init(options: { module_or_path: string }): Promise<unknown>;
export class Lab {
  constructor(events: (event: LabEvent) => void);
  recall(trials: string): void;
  open_model(files: File[]): ModelSummary;
  read_table(role: Role, file: string, bytes: Uint8Array): TablePreview;
  remove_table(role: Role): void;
  labels(role: Role, column: string): string[];
  default_recipe(): Recipe;
  check(recipe: Recipe): Check;
  gpu(): Promise<string>;
  plan(recipe: Recipe, engine: EngineKind, gpuBytes: number): Promise<Plan>;
  run(recipe: Recipe, engine: EngineKind, gpuBytes: number): Promise<Record>;
  bench(engine: EngineKind): Promise<BenchTable>;
  bench_products(shapes: { what: string; m: number; n: number; k: number }[]): Promise<MatmulRate[]>;
  cancel(): void;
  verify(files: File[], engine: EngineKind): Promise<VerifyReport>;
  follow(): Promise<Followed>;
  trust_subgroups(): Promise<boolean>;
}
/** SHA-256 of what arrives piece by piece (src/web/hash.rs). */
export class Hash {
  update(bytes: Uint8Array): void;
  hex(): string;
  free(): void;
}
export interface VerifyReport {
  device: string;
  checks: { quantity: string; outcome: 'passed' | { failed: string } | { skipped: string }; largest_relative_error: number }[];
}
/** src/experiment/self_test.rs has the fields. */
export interface Followed {
  device: string;
  steps: number;
  losses: number;
  first: number;
  last: number;
  largest_relative_error: number;
}
/** src/bench.rs has the fields. */
export interface MatmulRate {
  what: string;
  m: number;
  n: number;
  k: number;
  gflops: number;
  share_of_large: number;
}
export interface BenchTable {
  device: string;
  [figure: string]: unknown;
}
