// Promise: a model comes from the network whole and unharmed or not at all, whatever the server and the user do.
import { expect, test, type Page } from '@playwright/test';
import { accessible } from './helpers';
import { startHub, type Hub, type Manners } from './hub';

let hub: Hub;
test.beforeEach(async () => {
  hub = await startHub();
});
test.afterEach(() => hub.close());

const offer = (page: Page) => page.getByTestId('download-test');
const button = (page: Page, name: string) => offer(page).getByRole('button', { name });

async function open(page: Page, manners: Manners): Promise<void> {
  await hub.offer(page, manners);
  await page.goto('/');
  await expect(page.getByTestId('samples')).toBeVisible({ timeout: 60_000 });
  await page.getByText('Get a model from the network').click();
}

/** The downloaded model is open: its samples are not, which only the built-in one brings. */
async function opened(page: Page): Promise<void> {
  await expect(page.getByTestId('model-summary')).toContainText('Test model.safetensors: bf16 safetensors', { timeout: 60_000 });
  await expect(page.getByTestId('samples')).toBeHidden();
}

test('a model is downloaded, kept, opened again without the network, and deleted', async ({ page }) => {
  await open(page, 'good');
  await expect(offer(page)).toContainText('from 127.0.0.1');
  await button(page, 'Download and keep Test model').click();
  await opened(page);
  await accessible(page);
  await page.screenshot({ path: 'test-results/download.png', fullPage: true });
  await open(page, 'good');
  await button(page, 'Open Test model').click();
  await opened(page);
  expect(hub.ranges).toEqual([undefined]);
  await button(page, 'Delete Test model').click();
  await expect(button(page, 'Download and keep Test model')).toBeEnabled();
});

test('a broken connection is taken up where it broke', async ({ page }) => {
  await open(page, 'breaks');
  await button(page, 'Download and keep').click();
  await opened(page);
  expect(hub.ranges).toEqual([undefined, expect.stringMatching(/^bytes=[1-9]\d*-$/)]);
});

for (const manners of ['no-ranges', 'changes'] as const) {
  test(`a server with ${manners} after a break is asked for everything again`, async ({ page }) => {
    await open(page, manners);
    await button(page, 'Download and keep').click();
    await opened(page);
    // What was to come next, then all of it.
    expect(hub.ranges[1]).toMatch(/^bytes=[1-9]/);
    expect(hub.ranges.length).toBe(manners === 'changes' ? 3 : 2);
  });
}

for (const [manners, words] of [
  ['wrong-hash', 'announced 0000'],
  ['longer', 'sends more than the'],
  ['shorter', 'has less of model.safetensors than it announced'],
  ['missing', 'answers 404'],
  ['no-cors', 'cannot be reached'],
] as const) {
  test(`${manners} is refused in words`, async ({ page }) => {
    await open(page, manners);
    await button(page, 'Download and keep').click();
    await expect(offer(page).getByRole('alert')).toContainText(words, { timeout: 60_000 });
    // The built-in model is still there.
    await expect(page.getByTestId('model-summary')).toContainText('lab-model.safetensors');
    await page.screenshot({ path: `test-results/download-${manners}.png` });
  });
}

test('a download goes on after its tab was killed', async ({ page, context }) => {
  await open(page, 'stalls');
  await button(page, 'Download and keep').click();
  await expect(offer(page).getByRole('status')).toContainText('model.safetensors: 0.5 of 1.1 MB');
  await page.close();

  const next = await context.newPage();
  await open(next, 'stalls');
  await button(next, 'Go on with Test model').click();
  await opened(next);
  expect(hub.ranges).toEqual([undefined, expect.stringMatching(/^bytes=[1-9]\d*-$/)]);
});

test('stopping keeps what has come', async ({ page }) => {
  await open(page, 'stalls');
  await button(page, 'Download and keep').click();
  await expect(offer(page).getByRole('status')).toContainText('model.safetensors: 0.5 of 1.1 MB');
  await button(page, 'Stop').click();
  await button(page, 'Go on with Test model').click();
  await opened(page);
  expect(hub.ranges).toHaveLength(2);
});
