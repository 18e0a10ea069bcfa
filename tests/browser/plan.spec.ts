// Promise: what a run will take is said before it starts, and what does not fit is refused with what would.
import { expect, test } from '@playwright/test';
import { accessible, chooseEngine, openLab } from './helpers';

test('the plan fits, does not fit, and says what would', async ({ page }) => {
  const clean = await openLab(page);
  await chooseEngine(page, 'gpu');
  await page.getByRole('button', { name: 'What will it take?' }).click();
  const plan = page.getByTestId('plan');
  await expect(plan).toContainText('This run fits', { timeout: 120_000 });
  await expect(plan).toContainText(/It takes about .* estimated/);
  await plan.getByText('Stage by stage').click();
  await expect(plan.locator('tbody tr')).toHaveCount(10);
  await accessible(page);

  const memory = page.locator('input[name="gpu_gigabytes"]');
  await memory.fill('0.1');
  await memory.blur();
  await expect(plan, 'a plan for another limit is gone').toHaveCount(0);
  await page.locator('input[name="gpu_gigabytes"]').evaluate((input: HTMLInputElement) => (input.min = '0.001'));
  await memory.fill('0.008');
  await memory.blur();
  await page.getByRole('button', { name: 'What will it take?' }).click();
  await expect(plan).toContainText('This run does not fit');
  await expect(plan).toContainText('“Tuning everything” by Adafactor (Settings)');
  await expect(plan).toContainText('A run without the arm “Tuning everything”.');
  await page.screenshot({ path: 'test-results/plan.png', fullPage: true });
  await accessible(page);
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  await expect(page.getByRole('alert')).toContainText(/takes \d+ MB of memory, and this run may use 8 MB\. What would do: Competence by Adafactor/);
  clean();
});
