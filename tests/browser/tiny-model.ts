// A tiny model with a tokenizer of its own, and labelled tables for it, written for a test.
import { expect, type Page } from '@playwright/test';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { goldenFolder, openTables } from './helpers';

const words = (prefix: string, n: number) => Array.from({ length: n }, (_, i) => `${prefix}${i}`);
const labels = ['negative', 'neutral', 'positive'];

type Tables = { source_train: string; source_test: string; target_train: string; target_test: string };

export interface TinyFiles {
  model: string[];
  tables: Tables;
}

/** The golden Qwen2's weights with a word-level tokenizer, and sentences whose label is in their words. */
export function tinyFiles(): TinyFiles {
  const folder = mkdtempSync(join(tmpdir(), 'ctsft-tiny-'));
  const write = (name: string, content: string | Buffer) => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  const vocabulary = ['[UNK]', 'Text:', 'Sentiment:', ...labels, ...words('src', 60), ...words('tgt', 60)];
  const tokenizer = {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: null,
    decoder: null,
    model: { type: 'WordLevel', vocab: Object.fromEntries(vocabulary.map((word, i) => [word, i])), unk_token: '[UNK]' },
  };
  const table = (prefix: string, rows: number, offset: number) => {
    const line = (i: number) => {
      const label = i % 3;
      const text = [0, 1, 2].map((k) => `${prefix}${20 * label + ((7 * (i + offset) + 5 * k * (k + i)) % 20)}`).join(' ');
      return `${offset + i},"${text} ${prefix}${(i + offset) % 60}",${labels[label]}`;
    };
    return ['id,text,label', ...Array.from({ length: rows }, (_, i) => line(i))].join('\n');
  };
  return {
    model: [
      write('config.json', readFileSync(join(goldenFolder('qwen2_tiny'), 'config.json'))),
      write('model.safetensors', readFileSync(join(goldenFolder('qwen2_tiny'), 'model.safetensors'))),
      write('tokenizer.json', JSON.stringify(tokenizer)),
    ],
    tables: {
      source_train: write('source-train.csv', table('src', 48, 0)),
      source_test: write('source-test.csv', table('src', 30, 100)),
      target_train: write('target-train.csv', table('tgt', 48, 200)),
      target_test: write('target-test.csv', table('tgt', 30, 300)),
    },
  };
}

/** Opens the tiny model and its tables, or some of them, as a person would. */
export async function openTiny(page: Page, roles?: (keyof Tables)[]): Promise<void> {
  const { model, tables } = tinyFiles();
  await page.locator('#model-files').setInputFiles(model);
  await expect(page.getByTestId('model-summary')).toContainText('4 layers of 8 heads');
  await openTables(page, roles ? Object.fromEntries(roles.map((role) => [role, tables[role]])) : { ...tables });
}
