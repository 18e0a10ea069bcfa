// Promise: a GPU that is lost in mid-training is opened again, and the run goes on to its end.
import { expect, test } from '@playwright/test';
import { chooseEngine, downloadRecord, openLab, setNumber } from './helpers';
import { openTiny } from './tiny-model';

test('the browser\'s GPU process dies while the circuit is tuned', async ({ page, browser }) => {
  const clean = await openLab(page);
  await openTiny(page);
  await page.getByText('Settings').click();
  const few = { source_rows: 12, pool: 12, target_rows: 24, test_rows: 6, faithfulness_rows: 6, random_circuits: 1, competence_epochs: 2, masked_epochs: 12, ratio: 0.1 };
  for (const [name, value] of Object.entries(few)) await setNumber(page, name, value);
  for (const arm of ['nearzero', 'random', 'full']) await page.locator(`input[name="arm-${arm}"]`).uncheck();
  await chooseEngine(page, 'gpu');
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  await expect(page.locator('.progress')).toContainText('Tuning the circuit', { timeout: 8 * 60_000 });
  const devtools = await browser.newBrowserCDPSession();
  await devtools.send('Browser.crashGpuProcess');
  await expect(page.getByTestId('finished').or(page.getByRole('alert'))).toBeVisible({ timeout: 6 * 60_000 });
  await expect(page.getByTestId('finished')).toBeVisible();
  await expect(page.locator('.warnings')).toContainText('The GPU was lost once in the stage “Tuning the circuit”');
  const record = await downloadRecord(page);
  expect(record.warnings).toContainEqual({ kind: 'device_lost', stage: 'arm_circuit' });
  // 24 rows in batches of 8, 12 times: no step is missing, and none is there twice.
  expect(record.arms[0].losses).toHaveLength(36);
  expect(record.arms[0].losses.at(-1)).toBeLessThan(record.arms[0].losses[0]);
  clean();
});
