// A browser with the throttling that Playwright switches off: the timers of a tab
// behind another one are slowed down, here after seconds instead of minutes.
import { type Page, chromium } from '@playwright/test';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface Tabs {
  page: Page;
  toBack(): Promise<void>; // another tab comes before the page
  toFront(): Promise<void>;
  close(): Promise<void>;
}

export async function openTabs(): Promise<Tabs> {
  const profile = await mkdtemp(path.join(tmpdir(), 'specwatch-browser-'));
  const child = spawn(
    process.env.SPECWATCH_CHROMIUM!,
    [
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--no-first-run',
      '--remote-debugging-port=0',
      `--user-data-dir=${profile}`,
      '--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/1',
      'about:blank',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] }
  );
  const address = await new Promise<string>((resolve, reject) => {
    let said = '';
    child.stderr.on('data', (text) => {
      said += text;
      const found = /DevTools listening on (ws:\S+)/.exec(said);
      if (found) {
        resolve(found[1]);
      }
    });
    child.once('exit', () => reject(new Error(`the browser ended: ${said}`)));
  });
  const browser = await chromium.connectOverCDP(address, { noDefaults: true });
  const context = browser.contexts()[0];
  const page = await context.newPage();
  const other = await context.newPage();
  const visible = (state: string) =>
    page.waitForFunction((wanted) => document.visibilityState === wanted, state, { polling: 100 });
  await page.bringToFront();
  return {
    page,
    toBack: async () => {
      await other.bringToFront();
      await visible('hidden');
    },
    toFront: async () => {
      await page.bringToFront();
      await visible('visible');
    },
    close: async () => {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      await browser.close();
      child.kill();
      await ended;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
