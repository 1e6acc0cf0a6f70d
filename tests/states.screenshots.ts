// The pictures in docs/connection.md: each state of the connection, reached by
// real faults, in both themes. Taken by `go tool mage screenshots`.
import type { Page } from '@playwright/test';
import path from 'node:path';

import { type Frontend, pageFrontend, refuseStreams } from './frontends';
import { expect, test } from './fixtures';

const folder = 'docs/img/connection';

const says = (page: Page, status: string) =>
  expect(page.getByRole('status').first()).toHaveAttribute('data-status', status, { timeout: 60_000 });
const live = { preferredMode: 'websocket' };

interface State {
  settings?: object;
  whole?: boolean; // the whole page and not its head
  reach(page: Page, frontend: Frontend): Promise<void>;
}

const states: Record<string, State> = {
  connecting: {
    reach: async (page, frontend) => {
      await says(page, 'live');
      await frontend.link.slow(1_500);
      await page.getByRole('radio', { name: 'Polling' }).click({ force: true });
      await expect(page.getByTestId('switching')).toBeVisible();
    },
  },
  live: { whole: true, reach: (page) => says(page, 'live') },
  delayed: { settings: { preferredMode: 'polling' }, reach: (page) => says(page, 'delayed') },
  offline: {
    settings: { preferredMode: 'polling' },
    reach: async (page, frontend) => {
      await says(page, 'delayed');
      await frontend.link.cut();
      await says(page, 'offline');
    },
  },
  fallback: {
    reach: async (page) => {
      await refuseStreams(page);
      await page.reload();
      await expect(page.getByText('Delayed mode (polling every 5s)')).toBeVisible({ timeout: 40_000 });
    },
  },
  offer: {
    reach: async (page, frontend) => {
      await says(page, 'live');
      await frontend.link.cut();
      await expect(page.getByRole('radio', { name: 'Polling' })).toBeChecked({ timeout: 40_000 });
      await frontend.link.mend();
      await expect(page.getByText('Switch back to real-time?')).toBeVisible({ timeout: 60_000 });
      await says(page, 'delayed');
    },
  },
  manual: {
    settings: { manualRefreshOnly: true },
    reach: async (page, frontend) => {
      await says(page, 'live');
      for (const spec of ['api', 'docs', 'search']) {
        await frontend.specwatch('run', '--session', 'night', '--spec', spec, '--', process.execPath, '-e', '0');
      }
      await expect(page.getByText('6 new events')).toBeVisible({ timeout: 30_000 });
    },
  },
  hint: {
    settings: { autoFallback: false },
    reach: async (page, frontend) => {
      for (let i = 0; i < 3; i++) {
        await says(page, 'live');
        await frontend.link.cut();
        await says(page, 'offline');
        await frontend.link.mend();
      }
      await says(page, 'live');
      await expect(page.getByRole('button', { name: 'Switch to polling' })).toBeVisible();
    },
  },
  restarted: {
    reach: async (page, frontend) => {
      await says(page, 'live');
      await frontend.table.restore();
      await frontend.link.cut();
      await says(page, 'offline');
      await frontend.restart();
      await frontend.link.mend();
      await expect(page.getByText('The view has started again')).toBeVisible({ timeout: 40_000 });
    },
  },
  settings: {
    whole: true,
    reach: async (page) => {
      await says(page, 'live');
      await page.getByRole('button', { name: 'Settings' }).click();
      await expect(page.getByRole('dialog')).toBeVisible();
    },
  },
};

test.describe('screenshots', () => {
  test.describe.configure({ timeout: 180_000 });
  for (const [name, state] of Object.entries(states)) {
    for (const theme of ['light', 'dark'] as const) {
      test(`${name}, ${theme}`, async ({ page, gateway, table, network }) => {
        const frontend = await pageFrontend(gateway, table, network);
        for (const spec of ['login', 'search', 'billing', 'sign-up']) {
          await frontend.specwatch(
            'run',
            '--session',
            'night',
            '--spec',
            spec,
            '--',
            process.execPath,
            '-e',
            'setTimeout(() => 0, 400)'
          );
        }
        await frontend.table.insert('spec_started', 'night', 'webhooks');
        await frontend.table.insert('session_heartbeat', 'night', '');
        await page.emulateMedia({ colorScheme: theme });
        await page.setViewportSize({ width: 860, height: state.whole ? 900 : 330 });
        await frontend.open(page, { ...live, ...state.settings });
        await state.reach(page, frontend);
        await page.mouse.move(0, 0);
        await page.screenshot({
          path: path.join(folder, `${name}-${theme}.png`),
          animations: state.whole ? 'allow' : 'disabled',
        });
      });
    }
  }
});
