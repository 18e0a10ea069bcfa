// Promise: where there is no WebGPU the page says so and does everything on the CPU.
import { expect, test } from '@playwright/test';
import { openLab, runBuiltIn } from './helpers';

test.use({
  launchOptions: { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-features=WebGPU', '--disable-blink-features=WebGPU'] },
});

test('Run works at once with WebGPU disabled', async ({ page }) => {
  const clean = await openLab(page);
  await expect(page.getByText('this browser offers no WebGPU')).toBeVisible({ timeout: 60_000 });
  await expect(page.locator('input[name="engine"][value="gpu"]')).toBeDisabled();
  const record = await runBuiltIn(page, 'cpu', 'lab-cpu');
  expect(record.device).toContain('CPU');
  clean();
});
