// In a real Grafana; `go tool mage test` starts it where GRAFANA_HOME is set.
import { readFileSync } from 'node:fs';

import { complaints } from './axe';
import { admin, grafana, noGrafana, refuseStreams } from './frontends';
import { write } from './events';
import { expect, test } from './fixtures';

test.describe('in Grafana', () => {
  test.skip(!grafana, noGrafana);
  test.use({ baseURL: grafana, extraHTTPHeaders: admin });
  test.setTimeout(120_000);

  const run = Date.now(); // what an earlier run wrote is still there
  const emit = (kind: string, spec: string, data = {}) => write({ kind, session: 'night', spec, data });

  test('Grafana provisions all without an error', () => {
    const errors = /^.*logger=provisioning\S* .*level=error.*$/gm;
    // The command that starts Grafana writes its log there.
    expect(readFileSync('.specwatch/test/grafana.log', 'utf8').match(errors)).toBeNull();
  });

  test('the data source passes Save & test', async ({ page }) => {
    await page.goto('/connections/datasources/edit/specwatch');
    await page.getByRole('button', { name: /^(Save & test|Test)$/ }).click();
    await expect(page.getByText('Specwatch can read its events')).toBeVisible({ timeout: 60_000 });
  });

  test('the dashboard shows data, and its panel an event that is pushed', async ({ page }) => {
    await emit('spec_started', 'login');
    await emit('intervention_request', 'login', { question: 'Which port?' });
    await emit('spec_failed', 'login', { exit_code: 1 });
    await page.goto('/d/specwatch');
    await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 90_000 });
    await expect(page.getByTestId('event-row').filter({ hasText: 'login' }).first()).toBeVisible();
    await emit('spec_completed', `pushed-${run}`);
    await expect(page.getByTestId('event-row').filter({ hasText: `pushed-${run}` })).toBeVisible(); // before a poll
    await page.getByRole('radio', { name: 'Polling' }).check();
    await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'delayed');
    await emit('spec_completed', `polled-${run}`);
    await page.getByTestId('refresh').click();
    await expect(page.getByTestId('event-row').filter({ hasText: `polled-${run}` })).toBeVisible();
  });

  test('the toggle moves the built-in panels, and the variable the toggle', async ({ page }) => {
    await page.addInitScript(() =>
      localStorage.setItem('specwatch.settings', '{"preferredMode":"websocket","pollingInterval":5}')
    );
    await page.setViewportSize({ width: 1400, height: 2600 }); // panels out of sight are not loaded
    await page.goto('/d/specwatch');
    const badge = page.getByRole('status').first();
    const logged = (spec: string) =>
      page
        .getByText(`spec_completed ${spec} `)
        .or(page.getByText(`spec_completed ${spec}`, { exact: true }))
        .first();
    await expect(badge).toHaveAttribute('data-status', 'live', { timeout: 90_000 });
    await emit('spec_completed', 'logged-live');
    await expect(logged('logged-live')).toBeVisible();
    await page.getByRole('radio', { name: 'Polling' }).check();
    await expect(page).toHaveURL(/var-specwatch_mode=polling/);
    await expect(page).toHaveURL(/refresh=5s/);
    await expect(badge).toHaveAttribute('data-status', 'delayed');
    await emit('spec_completed', 'logged-polled');
    await expect(logged('logged-polled')).toBeVisible({ timeout: 20_000 });
    // The choice is part of the address, so a reload and a link keep it.
    await page.reload();
    await expect(badge).toHaveAttribute('data-status', 'delayed', { timeout: 90_000 });
    // The variable's own control moves the toggle.
    const dropDown = 'data-testid Dashboard template variables Variable Value DropDown';
    await page.getByTestId(`${dropDown} value link text Polling`).click();
    await page.getByRole('checkbox', { name: 'Live' }).click();
    await expect(badge).toHaveAttribute('data-status', 'live');
    await expect(page.getByRole('radio', { name: 'Live' })).toBeChecked();
  });

  test('without Grafana Live all falls back to polling, and the choice stays the person’s', async ({ page }) => {
    await refuseStreams(page);
    await page.setViewportSize({ width: 1400, height: 2600 });
    await page.goto('/d/specwatch');
    await expect(page.getByRole('status').first()).toHaveText('Delayed mode (polling every 10s)', { timeout: 90_000 });
    await emit('spec_completed', `without-live-${run}`);
    await expect(page.getByTestId('event-row').filter({ hasText: `without-live-${run}` })).toBeVisible({
      timeout: 20_000,
    });
    await expect(page.getByText(`spec_completed without-live-${run}`).first()).toBeVisible({ timeout: 30_000 }); // in the logs panel
    await expect(page).toHaveURL(/var-specwatch_mode=websocket/);
  });

  for (const theme of ['light', 'dark']) {
    test(`the panel is accessible, ${theme}`, async ({ page }) => {
      await emit('spec_started', 'axe');
      await page.goto(`/d/specwatch?viewPanel=1&theme=${theme}`);
      await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 90_000 });
      await expect(page.getByTestId('event-row').first()).toBeVisible();
      expect(await complaints(page, 'main [data-specwatch]')).toEqual([]);
      await page.getByRole('button', { name: 'Settings' }).last().click();
      await expect(page.getByRole('dialog')).toBeVisible();
      expect(await complaints(page, '[role=dialog]')).toEqual([]);
    });
  }
});
