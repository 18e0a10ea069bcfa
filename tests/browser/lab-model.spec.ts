// Promise: the page opens with the lab model and its sentences, and Run works at once, on WebGPU.
import { expect, test } from '@playwright/test';
import { readFileSync } from 'node:fs';
import { accessible, openLab, root, runBuiltIn } from './helpers';
import { tinyFiles } from './tiny-model';

test('Run works at once on WebGPU', async ({ page }) => {
  const clean = await openLab(page);
  const record = await runBuiltIn(page, 'gpu', 'lab-webgpu');
  expect(record.device).toContain('webgpu');
  expect(record.recipe).toMatchObject(JSON.parse(readFileSync(`${root}/models/lab/recipe.json`, 'utf8')));
  await accessible(page);
  clean();
});

test('own files replace the samples, and one click brings them back', async ({ page }) => {
  const clean = await openLab(page);
  await expect(page.getByTestId('samples')).toBeVisible();
  const files = tinyFiles();
  await page.locator('#file-source_train').setInputFiles(files.tables.source_train);
  await expect(page.getByTestId('source_train')).toContainText('source-train.csv: 48 rows');
  await expect(page.getByTestId('samples')).toBeHidden();
  await expect(page.getByTestId('target_train').locator('.good')).toBeHidden();
  await expect(page.getByText('Still needed: a target table.')).toBeVisible();

  await page.getByRole('button', { name: 'Open the sample sentences' }).click();
  await expect(page.getByTestId('target_test')).toContainText('sister-test.csv: 600 rows');
  await expect(page.getByTestId('target_train')).toContainText('english');

  // Another model takes the lab model's sentences away; the button brings both back.
  await page.locator('#model-files').setInputFiles(files.model);
  await expect(page.getByTestId('model-summary')).toContainText('4 layers of 8 heads');
  await expect(page.getByTestId('samples')).toBeHidden();
  await page.getByRole('button', { name: 'Use the built-in lab model' }).click();
  await expect(page.getByTestId('samples')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Run', exact: true })).toBeEnabled();
  clean();
});
