// Promise: Qwen2.5-0.5B at its full size opens in a browser, is decomposed and tuned there, in the memory that the README
// states. Configuration and tokenizer are the real ones, the weights made up.
import { expect, test } from '@playwright/test';
import { closeSync, copyFileSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chooseEngine, downloadRecord, hasNusax, need, nusax, openLab, openTables, runOn, setNumber, shared } from './helpers';

const real = join(shared, 'models/qwen2.5-0.5b');

/** The checkpoint's tensors, by name. */
function shapes(): [name: string, shape: number[]][] {
  const c = JSON.parse(readFileSync(join(real, 'config.json'), 'utf8'));
  const [wide, narrow, inner] = [c.hidden_size, (c.hidden_size / c.num_attention_heads) * c.num_key_value_heads, c.intermediate_size];
  const layer = (l: number) =>
    Object.entries({
      input_layernorm: [wide],
      'self_attn.q_proj': [wide, wide],
      'self_attn.k_proj': [narrow, wide],
      'self_attn.v_proj': [narrow, wide],
      'self_attn.o_proj': [wide, wide],
      post_attention_layernorm: [wide],
      'mlp.gate_proj': [inner, wide],
      'mlp.up_proj': [inner, wide],
      'mlp.down_proj': [wide, inner],
    }).flatMap(([name, shape]): [string, number[]][] => {
      const at = `model.layers.${l}.${name}`;
      const bias: [string, number[]][] = /[qkv]_proj/.test(name) ? [[`${at}.bias`, shape.slice(0, 1)]] : [];
      return [[`${at}.weight`, shape], ...bias];
    });
  const layers = Array.from({ length: c.num_hidden_layers }, (_, l) => layer(l)).flat();
  return [['model.embed_tokens.weight', [c.vocab_size, wide]], ...layers, ['model.norm.weight', [wide]]];
}

/** Small bf16 of both signs; gains are 1. */
function writeWeights(path: string) {
  const header: { [name: string]: { dtype: string; shape: number[]; data_offsets: [number, number] } } = {};
  let end = 0;
  for (const [name, shape] of shapes()) {
    const start = end;
    end += 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: 'BF16', shape, data_offsets: [start, end] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  // Exponents of 2^-7 and 2^-6, any sign and mantissa; a prime number of them, so that no two rows are alike.
  let state = 5;
  const values = Uint16Array.from({ length: 1_000_003 }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return ((state >>> 16) & 0x80ff) | 0x3c00;
  });
  const random = Buffer.from(values.buffer);
  const file = openSync(path, 'w');
  writeSync(file, length);
  writeSync(file, text);
  for (const [name, { data_offsets: at }] of Object.entries(header)) {
    let left = at[1] - at[0];
    const source = name.includes('norm') ? Buffer.from(new Uint16Array(left / 2).fill(0x3f80).buffer) : random;
    while (left > 0) left -= writeSync(file, source, 0, Math.min(left, source.length));
  }
  closeSync(file);
}

test('Qwen2.5-0.5B is opened, decomposed and tuned within 1.3 GB', async ({ page }) => {
  need(hasNusax && existsSync(real), 'NusaX and the real configuration');
  test.setTimeout(20 * 60_000);
  const folder = mkdtempSync(join(tmpdir(), 'ctsft-full-'));
  try {
    const at = (name: string) => join(folder, name);
    writeWeights(at('model.safetensors'));
    for (const name of ['config.json', 'tokenizer.json']) copyFileSync(join(real, name), at(name));
    // Short sentences for all that is repeated; one training step of real ones.
    const short = ['id,text,label', ...['negative', 'neutral', 'positive'].map((label, i) => `${i},sentence ${i},${label}`)].join('\n');
    for (const name of ['train.csv', 'test.csv']) writeFileSync(at(name), short);

    const clean = await openLab(page);
    await page.locator('#model-files').setInputFiles(['config.json', 'tokenizer.json', 'model.safetensors'].map(at));
    await expect(page.getByTestId('model-summary')).toContainText('24 layers of 14 heads (336 in all)', { timeout: 120_000 });
    await openTables(page, {
      source_train: at('train.csv'),
      source_test: at('test.csv'),
      target_train: nusax('indonesian', 'train'),
      target_test: at('test.csv'),
    });
    await page.getByText('Settings').click();
    const sizes = { source_rows: 3, pool: 3, target_rows: 8, test_rows: 3, faithfulness_rows: 3 };
    const rest = { random_circuits: 1, competence_epochs: 0, masked_epochs: 1, depth: 0, ratio: 0.06 };
    for (const [name, value] of Object.entries({ ...sizes, ...rest })) await setNumber(page, name, value);
    for (const arm of ['nearzero', 'random', 'full']) await page.locator(`input[name="arm-${arm}"]`).uncheck();
    await chooseEngine(page, 'gpu');
    await setNumber(page, 'gpu_gigabytes', 1.3);
    await page.getByRole('button', { name: 'What will it take?' }).click();
    await expect(page.getByTestId('plan')).toContainText('This run fits', { timeout: 120_000 });
    console.log(await page.getByTestId('plan').innerText());
    await runOn(page, 'gpu', 15);
    console.log(await page.getByTestId('finished').innerText());
    await page.screenshot({ path: 'test-results/full-size.png', fullPage: true });
    const record = await downloadRecord(page);
    expect(record.circuit.depths[0].relevance.flat()).toHaveLength(336);
    expect(record.arms).toHaveLength(1);
    expect(record.peak_device_bytes).toBeLessThan(1.3e9);
    expect(record.heap_bytes).toBeLessThan(300e6);
    clean();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
