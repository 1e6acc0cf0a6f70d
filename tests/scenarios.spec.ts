// Four ways of using the connection. Each ends by
// comparing what the page shows with what the table holds.
import type { Page } from '@playwright/test';

import { type Frontend, inEachFrontend } from './frontends';
import { expect, test } from './fixtures';
import { shownIds } from './table';

const badge = (page: Page) => page.getByRole('status').first();
const row = (page: Page, spec: string) =>
  page.getByTestId('event-row').filter({ has: page.getByText(spec, { exact: true }) });
const says = (page: Page, status: string, timeout = 60_000) =>
  expect(badge(page)).toHaveAttribute('data-status', status, { timeout });

// The page shows exactly the rows of the table, in their order.
async function showsTheTable(page: Page, frontend: Frontend): Promise<void> {
  const held = await frontend.table.ids();
  await expect(page.getByTestId('event-count')).toHaveText(held.length.toLocaleString('en-US'), { timeout: 20_000 });
  expect(await shownIds(page)).toEqual(held);
}

// shownOnce waits for what may be gone before the next look at the page.
const shownOnce = (page: Page, selector: string): Promise<void> =>
  page.evaluate(
    (wanted) =>
      new Promise<void>((seen) => {
        const observer = new MutationObserver(() => {
          if (document.querySelector(wanted)) {
            observer.disconnect();
            seen();
          }
        });
        observer.observe(document.body, { childList: true, subtree: true });
      }),
    selector
  );

test.describe.configure({ timeout: 150_000 });

inEachFrontend('overnight, live: restarts, a late commit, a closed lid', async (frontend, page) => {
  await frontend.open(page, { preferredMode: 'websocket', autoFallback: false });
  await says(page, 'live', 90_000);
  await frontend.specwatch(
    'run',
    '--session',
    'overnight',
    '--spec',
    'a-real-command',
    '--',
    process.execPath,
    '-e',
    '0'
  );
  await expect(row(page, 'a-real-command').locator('[data-kind=spec_completed]')).toBeVisible();

  // A transaction that began early commits late, and other rows overtake it.
  const commit = await frontend.table.late('overnight', 'late');
  await frontend.table.insert('spec_started', 'overnight', 'overtakes');
  await expect(row(page, 'overtakes')).toBeVisible();
  await frontend.restart();
  await frontend.table.insert('spec_failed', 'overnight', 'after-the-restart', { exit_code: 1 });
  await expect(row(page, 'after-the-restart')).toBeVisible({ timeout: 40_000 });
  await commit();
  await expect(row(page, 'late')).toBeVisible();

  // The lid is closed, the network goes away, and things happen meanwhile.
  const lid = await page.context().newCDPSession(page);
  await lid.send('Page.setWebLifecycleState', { state: 'frozen' });
  await frontend.link.cut();
  await frontend.table.insert('intervention_request', 'overnight', 'asked-at-night', { question: 'Which port?' });
  await frontend.table.many(50, 'overnight');
  await frontend.link.mend();
  await lid.send('Page.setWebLifecycleState', { state: 'active' });
  await expect(page.getByText('Which port?').first()).toBeVisible({ timeout: 40_000 });
  await says(page, 'live');
  await showsTheTable(page, frontend);
});

inEachFrontend('overnight, live: a half-open connection does not pass for Live', async (frontend, page) => {
  await frontend.open(page, { preferredMode: 'websocket', autoFallback: false });
  await says(page, 'live', 90_000);
  await frontend.link.freeze();
  await frontend.table.insert('spec_started', 'half-open', 'unheard-of');
  await says(page, 'offline');
  await expect(page.getByTestId('badge-detail').first()).toContainText('last update');
  await frontend.link.mend();
  await says(page, 'live');
  await showsTheTable(page, frontend);
});

inEachFrontend('now and then, polling', async (frontend, page) => {
  await frontend.open(page, { preferredMode: 'polling' });
  await says(page, 'delayed', 90_000);
  await expect(page.getByText('every 5 s', { exact: true })).toBeVisible();
  await expect(page.getByTestId('badge-detail').first()).toContainText(/\d+ s behind/);
  await frontend.table.insert('spec_started', 'lunch', 'soup');
  await expect(row(page, 'soup')).toBeVisible();
  await frontend.link.cut();
  await says(page, 'offline');
  await expect(page.getByTestId('badge-detail').first()).toContainText('last update');
  await frontend.table.insert('spec_completed', 'lunch', 'soup');
  await frontend.link.mend();
  await says(page, 'delayed');
  await expect(row(page, 'soup')).toHaveCount(2);
  await frontend.table.insert('spec_started', 'lunch', 'at-once');
  await page.getByTestId('refresh').click();
  await expect(page.getByTestId('last-update')).toContainText('Just now');
  await expect(row(page, 'at-once')).toBeVisible();
  await showsTheTable(page, frontend);
});

inEachFrontend('a bad link: falls back, offers to return, and leaves it to the person', async (frontend, page) => {
  await frontend.open(page, { preferredMode: 'websocket' });
  await says(page, 'live', 90_000);
  await frontend.link.slow(200);
  await frontend.table.insert('spec_started', 'train', 'slow');
  await expect(row(page, 'slow')).toBeVisible();
  await frontend.link.cut();
  await says(page, 'offline');
  await frontend.table.insert('spec_completed', 'train', 'in-the-tunnel');
  await expect(page.getByRole('radio', { name: 'Polling' })).toBeChecked({ timeout: 40_000 }); // polling took over
  await frontend.link.mend();
  await expect(badge(page)).toHaveText('Delayed mode (polling every 5s)', { timeout: 40_000 });
  await expect(row(page, 'in-the-tunnel')).toBeVisible();
  await expect(page.getByText('Switch back to real-time?')).toBeVisible({ timeout: 60_000 });
  await frontend.table.insert('spec_started', 'train', 'polled-on-the-train');
  await expect(row(page, 'polled-on-the-train')).toBeVisible(); // by a poll: nothing switched by itself
  await expect(page.getByText('Switch back to real-time?')).toBeVisible();
  await frontend.link.slow(200);
  const switching = shownOnce(page, '[data-testid=switching]');
  await page.getByRole('button', { name: 'Switch back' }).click();
  await switching;
  await says(page, 'live');
  await expect(page.getByTestId('switching')).toBeHidden();
  await showsTheTable(page, frontend);
});

inEachFrontend('on demand: events announce themselves and wait for Refresh', async (frontend, page) => {
  await frontend.table.insert('spec_started', 'demand', 'before');
  await frontend.open(page, { preferredMode: 'websocket', manualRefreshOnly: true });
  await says(page, 'live', 90_000);
  await expect(row(page, 'before').first()).toBeVisible();
  const shown = await shownIds(page);
  for (const spec of ['one', 'two', 'three']) {
    await frontend.table.insert('spec_started', 'demand', spec);
  }
  await expect(page.getByText('3 new events')).toBeVisible();
  expect(await shownIds(page)).toEqual(shown);
  await page.getByTestId('refresh').click();
  await expect(page.getByText('3 new events')).toBeHidden();
  // It says so for two seconds only, which a busy machine may miss.
  await expect(async () => {
    await page.getByTestId('refresh').click();
    await expect(page.getByTestId('last-update')).toContainText('Just now', { timeout: 2_000 });
  }).toPass();
  await showsTheTable(page, frontend);
});

inEachFrontend('after a restore the list holds all of it', async (frontend, page) => {
  const session = `restored ${Date.now()}`;
  await frontend.table.read(
    `INSERT INTO events (kind, session, spec, at) SELECT 'spec_completed', '${session}', 'spec ' || i, now() - i * interval '1 minute' FROM generate_series(60, 300) i`
  );
  await frontend.open(page, { preferredMode: 'websocket' });
  await says(page, 'live', 90_000);
  await frontend.table.restore();
  await frontend.table.insert('spec_started', session, 'after');
  await expect(page.getByText('The view has started again')).toBeVisible({ timeout: 40_000 });
  await says(page, 'live');
  await page.getByRole('button', { name: 'OK' }).click();
  await showsTheTable(page, frontend);
});
