import AxeBuilder from '@axe-core/playwright';
import { expect, test, type Page } from '@playwright/test';
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

export const root = join(import.meta.dirname, '../..');
export const shared = process.env.CTSFT_SHARED ?? join(root, '../shared');

export const nusax = (language: string, part: string) => join(shared, 'data/nusax-senti', language, `${part}.csv`);
export const hasNusax = existsSync(nusax('english', 'train'));
export const goldenFolder = (name: string) => join(root, 'tests/golden', name);
/** SmolLM2's GGUF, where `cargo xtask test` put it. */
export const smollm = process.env.CTSFT_SMOLLM2 ?? '';

/** Opens the page and waits for its lab model. Fails the test at its end if anything was asked of another host or logged as an error. */
export async function openLab(page: Page): Promise<() => void> {
  const foreign: string[] = [];
  const errors: string[] = [];
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (!['127.0.0.1:4173', ''].includes(url.host)) foreign.push(request.url());
  });
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  await page.goto('/');
  await expect(page.getByRole('heading', { level: 1 })).toBeVisible();
  // Files can be chosen once the built-in model is open.
  await expect(page.getByTestId('samples')).toBeVisible({ timeout: 60_000 });
  return () => {
    expect(foreign, 'no request to another host').toEqual([]);
    expect(errors, 'no errors on the console').toEqual([]);
  };
}

/** Opens tables by role. */
export async function openTables(page: Page, tables: { [role: string]: string }): Promise<void> {
  for (const [role, file] of Object.entries(tables)) {
    await page.locator(`#file-${role}`).setInputFiles(file);
    await expect(page.getByTestId(role).locator('.good')).toContainText(basename(file));
    await expect(page.locator(`#file-${role}`)).toBeEnabled();
  }
}

export async function setNumber(page: Page, name: string, value: number): Promise<void> {
  const field = page.locator(`input[name="${name}"]`);
  await field.fill(String(value));
  await field.blur();
}

/** Waits until the page knows its engines, and chooses one. */
export async function chooseEngine(page: Page, engine: 'gpu' | 'cpu'): Promise<void> {
  const choice = page.locator(`input[name="engine"][value="${engine}"]`);
  await expect(choice).toBeEnabled({ timeout: 60_000 });
  await choice.check();
  await expect(choice).toBeChecked();
}

/** Runs on an engine until the end, which must be a good one. */
export async function runOn(page: Page, engine: 'gpu' | 'cpu', minutes: number): Promise<void> {
  await chooseEngine(page, engine);
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  const finished = page.getByTestId('finished');
  await expect(finished.or(page.getByRole('alert'))).toBeVisible({ timeout: minutes * 60_000 });
  await expect(finished).toBeVisible();
}

export async function downloadRecord(page: Page) {
  const waiting = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Download the record' }).click();
  return JSON.parse(readFileSync(await (await waiting).path(), 'utf8'));
}

/** Opens nothing, presses Run and looks at what appears: the circuit, the arms, the table. */
export async function runBuiltIn(page: Page, engine: 'gpu' | 'cpu', screenshot: string) {
  await expect(page.getByTestId('model-summary')).toContainText('8 layers of 8 heads (64 in all)');
  await runOn(page, engine, 5);
  console.log(await page.getByTestId('finished').innerText());
  await expect(page.getByTestId('results').locator('tbody tr')).toHaveCount(7);
  await expect(page.getByTestId('head-grid').getByRole('gridcell')).toHaveCount(64);
  expect(await page.getByTestId('head-grid').locator('.member').count()).toBeLessThanOrEqual(6);
  await page.screenshot({ path: `test-results/${screenshot}.png`, fullPage: true });
  const record = await downloadRecord(page);
  expect(record.finished).toBe(true);
  expect(record.competent.source.accuracy).toBeGreaterThan(0.9);
  expect(record.circuit.faithfulness.rows.at(-1).faithfulness).toBeGreaterThan(0.7);
  return record;
}

/** Skips the running test where something is not to be had; CI must have it. */
export function need(there: boolean, what: string): void {
  if (!there && process.env.CI) throw new Error(`CI must have ${what}`);
  test.skip(!there, `${what} is not to be had here`);
}

/** WCAG 2.2 AA, as far as axe can tell. */
export async function accessible(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']).analyze();
  expect(violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target.join(' ')}`).join(', ')}`)).toEqual([]);
}
