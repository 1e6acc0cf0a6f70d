import { defineConfig, devices } from '@playwright/test';

export default defineConfig({
  projects: [
    { name: 'tests', testDir: 'tests' },
    { name: 'bench', testDir: 'tests', testMatch: '*.bench.ts' },
    { name: 'screenshots', testDir: 'tests', testMatch: '*.screenshots.ts' },
  ],
  outputDir: '.specwatch/test/browser',
  timeout: 120_000,
  expect: { timeout: 20_000 }, // what is not pushed comes after 30 s, by a poll
  workers: 1,
  forbidOnly: Boolean(process.env.CI),
  use: {
    ...devices['Desktop Chrome'],
    viewport: { width: 1180, height: 900 },
    launchOptions: {
      executablePath: process.env.SPECWATCH_CHROMIUM,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--disable-dev-shm-usage',
      ],
    },
    screenshot: 'only-on-failure',
  },
});
