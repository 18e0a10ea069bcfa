// Runs in a worker, as the lab does. What the lab reaches in this browser, as one JSON table: its own model on both engines, and the products of
// Qwen2.5-0.5B beside three other libraries.
import type { BenchTable, MatmulRate } from '../src/ctsft-lab';
import { askForSubgroups } from '../src/subgroups';
import { peers, type Shape } from './peers';

/** A training batch of 8 prompts of 64 tokens through Qwen2.5-0.5B. W_U is left out: in f32 it exceeds the peers' buffers. */
const shapes: Shape[] = [
  { what: 'W_Q', m: 512, n: 896, k: 896, normed: true },
  { what: 'W_K, W_V', m: 512, n: 128, k: 896, normed: true },
  { what: 'W_O', m: 512, n: 896, k: 896, normed: false },
  { what: 'W_gate, W_up', m: 512, n: 4864, k: 896, normed: true },
  { what: 'W_down', m: 512, n: 896, k: 4864, normed: false },
];

export interface BrowserTable {
  browser: string;
  date: string;
  /** Ours and each library's GFLOP/s, and ours as a multiple of the best of theirs; a text where one failed. */
  products: (Shape & { ours: number; peers: { [library: string]: number | string }; ratio_to_best_peer: number | null })[];
  lab_model: BenchTable[];
}

const say = (status: string) => postMessage({ status });

async function file(name: string, path = name): Promise<File> {
  return new File([await (await fetch(`../lab/${path}`)).blob()], name);
}

async function bench(): Promise<BrowserTable> {
  // Lies beside the built page, not beside this source.
  const built: string = '../ctsft-lab.js';
  const { default: init, Lab }: typeof import('../src/ctsft-lab') = await import(built);
  askForSubgroups();
  await init({ module_or_path: '../ctsft-lab_bg.wasm' });
  const lab = new Lab(() => {});
  const products: BrowserTable['products'] = [];
  for (const shape of shapes) {
    say(`${shape.what} by us`);
    const [ours]: MatmulRate[] = await lab.bench_products([shape]);
    const rates: { [library: string]: number | string } = {};
    for (const [library, seconds] of Object.entries(peers)) {
      say(`${shape.what} by ${library}`);
      try {
        rates[library] = (2 * shape.m * shape.n * shape.k) / (await seconds(shape)) / 1e9;
      } catch (error) {
        rates[library] = String(error);
      }
    }
    const best = Math.max(...Object.values(rates).filter((rate) => typeof rate === 'number'));
    const own = ours?.gflops ?? NaN;
    products.push({ ...shape, ours: own, peers: rates, ratio_to_best_peer: Number.isFinite(best) ? own / best : null });
  }
  await lab.open_model(await Promise.all([file('config.json'), file('tokenizer.json'), file('lab-model.safetensors', 'model.safetensors')]));
  const lab_model: BenchTable[] = [];
  for (const engine of ['cpu', 'gpu'] as const) {
    say(`the lab model on the ${engine}`);
    lab_model.push(await lab.bench(engine));
  }
  return { browser: navigator.userAgent, date: new Date().toISOString().slice(0, 10), products, lab_model };
}

bench()
  .then((table) => postMessage({ status: 'done', table }))
  .catch((error) => say(`failed: ${error?.message ?? error}`));
