import { defineConfig } from '@playwright/test';
import tests from './playwright.config';

// The benchmark of `cargo xtask bench`: the browser tests' server and browser, one page, much time.
export default defineConfig(tests, { testDir: 'tests/bench', testMatch: '*.bench.ts', timeout: 40 * 60_000 });
