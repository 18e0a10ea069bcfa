// Not a test of anything: runs the benchmark page in Chromium and prints its table. `cargo xtask bench` calls it.
import { expect, test } from '@playwright/test';
import { writeFileSync } from 'node:fs';

test('benchmark', async ({ page }) => {
  await page.goto('/bench/');
  const status = page.getByRole('status');
  await expect(status).toHaveText(/^(done|failed)/, { timeout: 30 * 60_000 });
  await expect(status).toHaveText('done');
  const table = await page.locator('#table').innerText();
  writeFileSync(process.env.CTSFT_BENCH ?? 'test-results/bench.json', `${table}\n`);
});
