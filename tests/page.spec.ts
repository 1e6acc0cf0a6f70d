import type { Page } from '@playwright/test';

import { complaints } from './axe';
import { refuseStreams } from './doors';
import { expect, test } from './fixtures';
import { Gateway } from './gateway';

const rows = (page: Page) => page.getByTestId('event-row');
const badge = (page: Page) => page.getByRole('status');
const toggle = (page: Page, label: string) => page.getByRole('radiogroup', { name: 'Delivery of events' }).getByRole('radio', { name: label }).click({ force: true });
const specs = async (page: Page) => (await rows(page).locator('[data-spec]').allTextContents()).reverse();

test('an event is pushed to the open page', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await expect(page.getByText('push on event')).toBeVisible();
  await gateway.emit('first', 'second');
  await expect(rows(page)).toHaveCount(2);
  expect(await specs(page)).toEqual(['first', 'second']);
  await expect(page.getByTestId('count-running')).toContainText('2');
});

test('a real command appears as a spec, with its end', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await gateway.specwatch('run', '--session', 'night', '--spec', 'hello', '--', process.execPath, '-e', '0');
  await expect(rows(page).locator('[data-kind=spec_completed]')).toBeVisible();
  await expect(page.getByTestId('count-completed')).toContainText('1');
  await expect(page.getByTestId('session-row')).toContainText('night');
});

test('polling brings the same events, and Refresh does at once', async ({ page, gateway }) => {
  await page.addInitScript(() => localStorage.setItem('specwatch.settings', '{"preferredMode":"polling","pollingInterval":5}'));
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'delayed');
  await expect(page.getByText('every 5 s')).toBeVisible();
  await gateway.emit('polled');
  await expect(rows(page)).toHaveCount(1);
  await gateway.emit('refreshed');
  await page.getByTestId('refresh').click();
  await expect(page.getByTestId('last-update')).toContainText('Just now');
  await expect(rows(page)).toHaveCount(2);
  expect(await specs(page)).toEqual(['polled', 'refreshed']);
});

test('the toggle loses and repeats nothing', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  const expected: string[] = [];
  for (let i = 0; i < 6; i++) {
    const [label, status] = i % 2 ? ['Live', 'live'] : ['Polling', 'delayed'];
    expected.push(`before ${i}`);
    await gateway.emit(`before ${i}`);
    await toggle(page, label);
    expected.push(`while ${i}`);
    await gateway.emit(`while ${i}`);
    await expect(badge(page)).toHaveAttribute('data-status', status);
  }
  await page.getByTestId('refresh').click();
  await expect(page.getByTestId('event-count')).toHaveText(String(expected.length));
  expect(await specs(page)).toEqual(expected);
});

test('a gateway that restarts is found again, and nothing is missing', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await gateway.emit('before');
  await expect(rows(page)).toHaveCount(1);
  await gateway.stop();
  await expect(badge(page)).toHaveAttribute('data-status', 'offline');
  await gateway.specwatch('emit', 'spec_started', '--session', 'night', '--spec', 'meanwhile');
  await gateway.restart();
  await expect(rows(page)).toHaveCount(2, { timeout: 40_000 });
  // The link was lost for long enough to fall back to polling: the page asks.
  const back = page.getByRole('button', { name: 'Switch back' });
  await expect(badge(page).or(back).first()).toBeVisible();
  if ((await badge(page).getAttribute('data-status')) !== 'live') {
    await back.click({ timeout: 40_000 });
  }
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await gateway.emit('after');
  await expect(rows(page)).toHaveCount(3);
  expect(await specs(page)).toEqual(['before', 'meanwhile', 'after']);
});

test('another history of the database is told, and what it holds is shown', async ({ page, gateway, table }) => {
  await gateway.emit('before');
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await expect(rows(page)).toHaveCount(1);
  await table.restore();
  await gateway.emit('after');
  await expect(page.getByText('The view began afresh')).toBeVisible({ timeout: 30_000 });
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await expect(rows(page)).toHaveCount(2);
  await page.getByRole('button', { name: 'OK' }).click();
  await expect(page.getByTestId('note')).toHaveCount(0);
});

test('ages follow the clock of the database, and a wrong one here is told', async ({ page, gateway, table }) => {
  await page.addInitScript(() => {
    const now = Date.now;
    Date.now = () => now() - 600_000;
  });
  await table.insert('spec_started', 'night', 'login');
  await table.insert('session_heartbeat', 'night', '');
  await page.goto(gateway.url);
  await expect(page.getByTestId('note')).toContainText('clock is 10 min behind the database’s');
  await expect(page.getByTestId('glance')).toHaveText(/^Awake, working on login, for \d+ s$/);
  await expect(page.getByTestId('last-update')).toContainText('Just now');
});

test('a stream that is refused falls back at once; polling needs none', async ({ page, gateway }) => {
  await refuseStreams(page);
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveText('Delayed mode (polling every 10s)');
  await gateway.emit('polled');
  await page.getByTestId('refresh').click();
  await expect(rows(page)).toHaveCount(1);
});

test('the keyboard moves the toggle, unfolds an event and leaves the dialog', async ({ page, gateway, table }) => {
  await table.insert('spec_failed', 'night', 'login', { exit_code: 3 });
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await page.getByRole('radio', { name: 'Live' }).focus();
  await page.keyboard.press('ArrowRight');
  await expect(badge(page)).toHaveAttribute('data-status', 'delayed');
  await rows(page).getByRole('button').first().focus();
  await page.keyboard.press('Enter');
  await expect(rows(page).locator('pre')).toContainText('"exit_code": 3');
  await page.getByRole('button', { name: 'Settings' }).focus();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('dialog')).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByRole('dialog')).toBeHidden();
});

test('Live pulses, unless the person wants less motion', async ({ page, gateway }) => {
  const pulse = () => badge(page).evaluate((word) => getComputedStyle(word.previousElementSibling!).animationName);
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  expect(await pulse()).not.toBe('none');
  await page.emulateMedia({ reducedMotion: 'reduce' });
  expect(await pulse()).toBe('none');
});

test('settings are kept, and Cancel keeps the old ones', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  const settings = page.getByRole('button', { name: 'Settings' });
  const dialog = page.getByRole('dialog');
  const interval = dialog.getByRole('textbox');
  await settings.click();
  await interval.fill('33');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  await expect(dialog).toBeHidden();
  await settings.click();
  await expect(interval).toHaveValue('10');
  await dialog.getByRole('slider').focus();
  await page.keyboard.press('ArrowRight');
  await expect(interval).toHaveValue('11');
  await interval.fill('20');
  await dialog.getByRole('radio', { name: 'Polling' }).click({ force: true });
  await dialog.getByRole('button', { name: 'Save' }).click();
  await expect(page.getByText('every 20 s')).toBeVisible();
  await page.reload();
  await expect(page.getByText('every 20 s')).toBeVisible();
  await expect(badge(page)).toHaveAttribute('data-status', 'delayed');
});

test('a figure of the summary leads to its events, and filters narrow them', async ({ page, gateway, table }) => {
  await table.insert('spec_failed', 'night', 'search', { exit_code: 1 });
  await table.insert('spec_completed', 'night', 'search');
  await table.insert('spec_failed', 'night', 'login', { error: 'port 5432 is taken' });
  await table.insert('spec_started', 'other', 'docs');
  await page.goto(gateway.url);
  await expect(rows(page)).toHaveCount(4);
  await page.getByTestId('count-failed').click();
  await expect(page.getByTestId('count-failed')).toContainText('1');
  await expect(rows(page)).toHaveCount(1); // the spec that failed and was not mended
  await expect(rows(page)).toContainText('login');
  await page.getByTestId('count-failed').click();
  await expect(rows(page)).toHaveCount(4);
  await page.getByRole('search').getByText('failed').click();
  await expect(rows(page)).toHaveCount(2);
  await page.getByRole('button', { name: 'Clear' }).last().click();
  await page.getByPlaceholder('Search text').fill('PORT 5432');
  await expect(rows(page)).toHaveCount(1);
  await page.getByPlaceholder('Search text').fill('nowhere');
  await expect(page.getByText('None of the 4 events held here matches.')).toBeVisible();
  await page.getByRole('button', { name: 'Show all events' }).click();
  await page.getByLabel('Session', { exact: true }).fill('other');
  await page.keyboard.press('Enter');
  await expect(rows(page)).toHaveCount(1);
  await expect(rows(page)).toContainText('docs');
  await page.getByRole('button', { name: 'Clear' }).last().click();
  await page.getByTestId('timeline-row').filter({ hasText: 'docs' }).click();
  await expect(rows(page)).toHaveCount(1);
});

test('the data of an event are read and copied as JSON', async ({ page, gateway, table, context }) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await table.insert('spec_failed', 'night', 'login', { exit_code: 3, output: ['a', 'b'] });
  await page.goto(gateway.url);
  await rows(page).getByRole('button').first().click();
  await expect(rows(page).locator('pre')).toContainText('"exit_code": 3');
  await rows(page).getByRole('button', { name: 'Copy' }).click();
  const copied = JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
  expect(copied).toMatchObject({ kind: 'spec_failed', spec: 'login', data: { exit_code: 3, output: ['a', 'b'] } });
});

test('a gateway with a read token asks for it once', async ({ page }) => {
  const gateway = new Gateway({ SPECWATCH_READ_TOKEN: 'read-secret' });
  await gateway.start();
  try {
    await page.goto(gateway.url);
    await page.getByLabel('Read token of this gateway').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await expect(page.getByText('this is not the read token')).toBeVisible();
    await page.getByLabel('Read token of this gateway').fill('read-secret');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    await page.reload();
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    expect(page.url()).not.toContain('secret');
  } finally {
    await gateway.stop();
  }
});

for (const [name, width, height] of [['phone', 390, 844], ['tablet', 820, 1180]] as const) {
  for (const scheme of ['light', 'dark'] as const) {
    test(`fits a ${name} and is accessible, ${scheme}`, async ({ page, gateway }) => {
      await page.emulateMedia({ colorScheme: scheme });
      await page.setViewportSize({ width, height });
      await gateway.emit('a spec with a rather long name that does not fit into one line of a phone');
      await gateway.specwatch('emit', 'intervention_request', '--session', 'night', '--spec', 'login', '--data', '{"question":"Which port?"}');
      await page.goto(gateway.url);
      await expect(badge(page)).toHaveAttribute('data-status', 'live');
      await expect(rows(page)).toHaveCount(2);
      expect(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)).toBe(0);
      await rows(page).first().getByRole('button').first().click();
      expect(await complaints(page, 'main')).toEqual([]);
      await page.getByRole('button', { name: 'Settings' }).click();
      await expect(page.getByRole('dialog')).toBeVisible();
      expect(await complaints(page, '[role=dialog]')).toEqual([]);
    });
  }
}
