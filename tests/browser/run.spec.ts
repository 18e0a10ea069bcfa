// Promise: a person opens a model and tables, presses Run, and gets the circuit and the table of results.
import { expect, test } from '@playwright/test';
import { accessible, chooseEngine, downloadRecord, hasNusax, need, nusax, openLab, openTables, runOn, setNumber, smollm } from './helpers';
import { openTiny } from './tiny-model';

test('a tiny model on WebGPU: all arms, circuit, table, record', async ({ page }) => {
  const clean = await openLab(page);
  await openTiny(page);
  await page.getByText('Settings').click();
  await setNumber(page, 'source_rows', 24);
  await setNumber(page, 'pool', 12);
  await setNumber(page, 'target_rows', 24);
  await setNumber(page, 'faithfulness_rows', 12);
  await setNumber(page, 'ratio', 0.1);
  await page.getByRole('button', { name: 'Check' }).click();
  await expect(page.getByText('The answers are the tokens')).toBeVisible();
  await runOn(page, 'gpu', 10);

  await expect(page.getByTestId('results').locator('tbody tr')).toHaveCount(7);
  await expect(page.getByTestId('head-grid').getByRole('gridcell')).toHaveCount(32);
  expect(await page.getByTestId('head-grid').locator('.member').count()).toBeGreaterThan(3);
  await page.screenshot({ path: 'test-results/tiny-webgpu.png', fullPage: true });
  await accessible(page);

  // A phone, in Indonesian: nothing runs out of the page sideways.
  await page.setViewportSize({ width: 390, height: 800 });
  await page.locator('.language select').selectOption('id');
  await expect(page.getByRole('button', { name: 'Jalankan', exact: true })).toBeVisible();
  await page.screenshot({ path: 'test-results/tiny-webgpu-phone.png', fullPage: true });
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  await page.locator('.language select').selectOption('en');

  const record = await downloadRecord(page);
  expect(record.device).toContain('webgpu');
  expect(record.finished).toBe(true);
  expect(record.arms.map((a: { kind: string }) => a.kind)).toEqual(['circuit', 'nearzero', 'random', 'full']);
  // Tuning everything on separable words must lower the loss; arms that share heads' number share their size class.
  const full = record.arms[3];
  expect(full.losses.at(-1)).toBeLessThan(full.losses[0]);
  expect(JSON.stringify(record)).not.toContain('src1');
  clean();
});

test('the head grid is walked with the arrow keys', async ({ page }) => {
  const clean = await openLab(page);
  await openTiny(page, ['source_train', 'target_train']);
  await page.getByText('Settings').click();
  for (const [name, value] of Object.entries({ source_rows: 12, pool: 12, target_rows: 6, test_rows: 6, faithfulness_rows: 6, competence_epochs: 1, masked_epochs: 1 })) {
    await setNumber(page, name, value);
  }
  for (const arm of ['nearzero', 'random', 'full']) await page.locator(`input[name="arm-${arm}"]`).uncheck();
  await runOn(page, 'cpu', 3);
  const cell = page.locator('[data-head="1.2"]');
  await cell.focus();
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('ArrowRight');
  await expect(page.locator('[data-head="2.3"]')).toBeFocused();
  await expect(page.locator('.cell-text')).toContainText('Layer 2, head 3');
  clean();
});

test('cancel stops a run and keeps what it found', async ({ page }) => {
  const clean = await openLab(page);
  await openTiny(page);
  await page.getByText('Settings').click();
  await setNumber(page, 'competence_epochs', 400);
  await chooseEngine(page, 'cpu');
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  await expect(page.getByTestId('results')).toBeVisible({ timeout: 60_000 });
  await expect(page.locator('.progress progress')).toBeVisible();
  await page.getByRole('button', { name: 'Cancel' }).click();
  await expect(page.getByText('Stopped.')).toBeVisible({ timeout: 5_000 });
  await expect(page.getByTestId('results')).toBeVisible();
  await expect(page.getByRole('button', { name: 'Run', exact: true })).toBeEnabled();
  clean();
});

test('cancel takes less than a second, however long a step takes, and loses nothing that is open', async ({ page }) => {
  need(hasNusax, 'NusaX beside the checkout (CTSFT_SHARED)');
  need(smollm !== '', 'the SmolLM2 GGUF (CTSFT_SMOLLM2)');
  const clean = await openLab(page);
  await page.locator('#model-files').setInputFiles(smollm);
  await expect(page.getByTestId('model-summary')).toContainText('30 layers of 9 heads', { timeout: 120_000 });
  await openTables(page, { source_train: nusax('english', 'train'), target_train: nusax('indonesian', 'train') });
  await chooseEngine(page, 'cpu');
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  // From here on batches follow each other, each of several seconds.
  await expect(page.locator('.progress')).toContainText('so far', { timeout: 120_000 });
  await page.getByRole('button', { name: 'Cancel' }).click();
  await expect(page.getByText('Stopped.')).toBeVisible({ timeout: 1_000 });
  await page.getByRole('button', { name: 'Check' }).click();
  await expect(page.getByText('The answers are the tokens')).toBeVisible({ timeout: 60_000 });
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  await expect(page.locator('.progress')).toContainText('so far', { timeout: 120_000 });
  clean();
});

test('errors are shown in words where they arise', async ({ page }) => {
  await openLab(page);
  const bytes = (name: string, text: string) => ({ name, mimeType: 'text/csv', buffer: Buffer.from(text) });
  await page.locator('#file-source_train').setInputFiles(bytes('broken.csv', 'text,label\n"never closed,positive\n'));
  await expect(page.getByTestId('source_train').getByRole('alert')).toContainText('row 2: the quote opened here is never closed');
  await page.locator('#model-files').setInputFiles(bytes('model.gguf', 'not a model'));
  await expect(page.getByRole('alert').first()).toContainText('not a readable GGUF file');
});

test('a real model on the CPU: SmolLM2-135M, English to Indonesian', async ({ page }) => {
  need(hasNusax, 'NusaX beside the checkout (CTSFT_SHARED)');
  need(smollm !== '', 'the SmolLM2 GGUF (CTSFT_SMOLLM2)');
  const clean = await openLab(page);
  await page.locator('#model-files').setInputFiles(smollm);
  await expect(page.getByTestId('model-summary')).toContainText('30 layers of 9 heads', { timeout: 120_000 });
  await openTables(page, {
    source_train: nusax('english', 'train'),
    source_test: nusax('english', 'test'),
    target_train: nusax('indonesian', 'train'),
    target_test: nusax('indonesian', 'test'),
  });
  await page.getByText('Settings').click();
  const few = { source_rows: 6, pool: 6, target_rows: 6, test_rows: 6, faithfulness_rows: 3, random_circuits: 1, competence_epochs: 1, masked_epochs: 1, depth: 0 };
  for (const [name, value] of Object.entries(few)) await setNumber(page, name, value);
  for (const arm of ['nearzero', 'full']) await page.locator(`input[name="arm-${arm}"]`).uncheck();
  await runOn(page, 'cpu', 13);
  await expect(page.getByTestId('results').locator('tbody tr')).toHaveCount(5);
  await expect(page.getByTestId('head-grid').getByRole('gridcell')).toHaveCount(270);
  await page.screenshot({ path: 'test-results/smollm2-cpu.png', fullPage: true });
  const record = await downloadRecord(page);
  expect(record.model.hash).toBe('b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53');
  clean();
});
