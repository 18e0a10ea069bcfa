// Promise: in the worker, in a real browser, both engines agree with the golden values.
import { expect, test } from '@playwright/test';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { chooseEngine, goldenFolder, openLab } from './helpers';

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
      await expect(report).toContainText(/ 0 failed/);
      const passed = Number(/(\d+) checks passed/.exec(await report.innerText())?.[1]);
      // Adjoints, gradients, means, training, faithfulness: the CPU engine's sweeps come on top.
      expect(passed).toBeGreaterThan(engine === 'gpu' ? 100 : 150);
      clean();
    });
  }
}
