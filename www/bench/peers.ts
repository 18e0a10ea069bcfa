// The same products by the three libraries that compute on WebGPU in a browser, each in its own best words: f32, weights on
// the device beforehand, and no result read back but where waiting takes it.
import * as jax from '@jax-js/jax';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-webgpu';
import * as ort from 'onnxruntime-web/webgpu';
import { product } from './onnx';

/** `[m, k] · [n, k]ᵀ`. */
export interface Shape {
  what: string;
  m: number;
  n: number;
  k: number;
  /** Whether its left side comes from a norm, which makes ours ready for products. */
  normed: boolean;
}

/** Values in [-1, 1) that repeat after a while. */
const values = (count: number) => Float32Array.from({ length: count }, (_, i) => ((i * 7919) % 2003) / 1001.5 - 1);

/** Products that are given before any is waited for, as in src/bench.rs. */
const PRODUCTS = 6;

/** Seconds of one product, `times` of which a call makes, after one that compiles: the mean of as many calls as two seconds take. */
async function timed(products: (times: number) => Promise<void>): Promise<number> {
  await products(1);
  const started = performance.now();
  let runs = 0;
  do {
    await products(PRODUCTS);
    runs += 1;
  } while (performance.now() - started < 2000);
  return (performance.now() - started) / 1000 / runs / PRODUCTS;
}

async function byJax({ m, n, k }: Shape): Promise<number> {
  await jax.init('webgpu');
  jax.defaultDevice('webgpu');
  const x = jax.numpy.array(values(m * k), { shape: [m, k] });
  const w = jax.numpy.array(values(k * n), { shape: [k, n] });
  const seconds = await timed(async (times) => {
    const results = Array.from({ length: times }, () => jax.numpy.matmul(x.ref, w.ref));
    for (const y of results) (await y.blockUntilReady()).dispose();
  });
  x.dispose();
  w.dispose();
  return seconds;
}

async function byTensorflow({ m, n, k }: Shape): Promise<number> {
  await tf.setBackend('webgpu');
  const x = tf.tensor2d(values(m * k), [m, k]);
  const w = tf.tensor2d(values(k * n), [k, n]);
  const seconds = await timed(async (times) => {
    const results = Array.from({ length: times }, () => tf.matMul<tf.Tensor2D>(x, w));
    // It has no other way to wait: one value of the last is read back.
    const one = tf.slice(results[times - 1]!, [0, 0], [1, 1]);
    await one.data();
    tf.dispose([...results, one]);
  });
  tf.dispose([x, w]);
  return seconds;
}

async function byOnnxRuntime({ m, n, k }: Shape): Promise<number> {
  ort.env.wasm.wasmPaths = './';
  const session = await ort.InferenceSession.create(product(m, n, k, values(k * n)), {
    executionProviders: ['webgpu'],
    preferredOutputLocation: 'gpu-buffer',
  });
  const device = (await ort.env.webgpu.device) as GPUDevice;
  const gpuBuffer = device.createBuffer({ size: 4 * m * k, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
  device.queue.writeBuffer(gpuBuffer, 0, values(m * k));
  const x = ort.Tensor.fromGpuBuffer(gpuBuffer as never, { dataType: 'float32', dims: [m, k] });
  const seconds = await timed(async (times) => {
    const results = [];
    for (let i = 0; i < times; i++) results.push((await session.run({ x })).y);
    await device.queue.onSubmittedWorkDone();
    results.forEach((y) => y?.dispose());
  });
  gpuBuffer.destroy();
  await session.release();
  return seconds;
}

export const peers: { [library: string]: (shape: Shape) => Promise<number> } = {
  '@jax-js/jax': byJax,
  '@tensorflow/tfjs-backend-webgpu': byTensorflow,
  'onnxruntime-web': byOnnxRuntime,
};
