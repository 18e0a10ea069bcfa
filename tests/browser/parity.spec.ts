// Promise: in the worker, in a real browser, both engines agree with the golden values.
import { expect, test } from '@playwright/test';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { chooseEngine, goldenFolder, openLab } from './helpers';

test('50 training steps on WebGPU follow the CPU', async ({ page }) => {
  const clean = await openLab(page);
  await chooseEngine(page, 'gpu');
  await page.getByText('Self-check').click();
  await page.getByRole('button', { name: 'Train 50 steps on the GPU' }).click();
  const followed = page.getByTestId('followed');
  await expect(followed).toBeVisible({ timeout: 5 * 60_000 });
  const text = await followed.innerText();
  console.log(text);
  const [, first, last, worst] = /loss ([\d.]+) to ([\d.]+).* ([\d.e+-]+) of it/.exec(text)?.map(Number) ?? [];
  expect(last).toBeLessThan(first! / 2);
  expect(worst).toBeLessThanOrEqual(1e-3);
  clean();
});

test('products by subgroups, which wgpu cannot ask a browser for, are those of the CPU', async ({ page }) => {
  const clean = await openLab(page);
  // A worker like the page's, called as Comlink calls it.
  const outcome = await page.evaluate(
    () =>
      new Promise((resolve) => {
        const worker = new Worker('./worker.js', { type: 'module' });
        worker.onmessage = ({ data }) => resolve(data.value);
        worker.postMessage({ id: '1', type: 'APPLY', path: ['trustSubgroups'], argumentList: [] });
      }),
  );
  expect(outcome).toEqual({ ok: true, value: true });
  clean();
});

for (const folder of ['qwen2_tiny', 'llama_tiny']) {
  for (const engine of ['gpu', 'cpu'] as const) {
    test(`${folder} on ${engine}`, async ({ page }) => {
      const clean = await openLab(page);
      await chooseEngine(page, engine);
      await page.getByText('Self-check').click();
      const files = readdirSync(goldenFolder(folder)).map((name) => join(goldenFolder(folder), name));
      await page.locator('#golden-files').setInputFiles(files);
      const report = page.getByTestId('self-check');
      await expect(report).toBeVisible({ timeout: 10 * 60_000 });
      console.log(await report.innerText());
      // What failed is listed: say it, too.
      console.log((await page.locator('details ul').allInnerTexts()).join('\n'));
      await expect(report).toContainText(/ 0 failed/);
      const passed = Number(/(\d+) checks passed/.exec(await report.innerText())?.[1]);
      // Adjoints, gradients, means, training, faithfulness: the CPU engine's sweeps come on top.
      expect(passed).toBeGreaterThan(engine === 'gpu' ? 100 : 150);
      clean();
    });
  }
}
