// The dashboards of the plugin, in a real Grafana that nobody has clicked in.
import { expect, test } from '@playwright/test';

import { admin, grafana, noGrafana } from './frontends';
import { type Past, write } from './events';

interface Panel {
  title: string;
  type: string;
  description?: string;
  panels?: Panel[];
}

test.describe('dashboards', () => {
  test.skip(!grafana, noGrafana);
  test.use({ baseURL: grafana, extraHTTPHeaders: admin, viewport: { width: 1400, height: 2600 } }); // panels out of sight are not loaded
  test.setTimeout(180_000);

  const session = 'a-session-whose-name-is-as-long-as-that-of-a-branch-with-ticket-2026-11-24';
  test.beforeAll(async () => {
    if (!grafana) {
      return;
    }
    const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000).toISOString();
    const events: Past[] = [
      { kind: 'spec_started', session, spec: 'tests', at: ago(30) },
      { kind: 'spec_completed', session, spec: 'tests', at: ago(25) },
      {
        kind: 'claude.usage',
        session,
        spec: 'tests',
        at: ago(26),
        data: { usage: { inputTokens: 12_000, outputTokens: 340, costUsd: 0.25 } },
      },
      { kind: 'spec_started', session, spec: 'data', at: ago(24) },
      { kind: 'timeout_triggered', session, spec: 'data', at: ago(20) },
      { kind: 'spec_started', session, spec: 'data', at: ago(19) },
      { kind: 'spec_failed', session, spec: 'data', at: ago(15), data: { exit_code: 1 } },
      { kind: 'spec_started', session, spec: 'database', at: ago(3) },
      { kind: 'intervention_request', session, spec: 'database', at: ago(2), data: { question: 'Which one?' } },
    ];
    for (let minute = 30; minute >= 0; minute--) {
      events.push({ kind: 'session_heartbeat', session, at: ago(minute) });
    }
    await write(...events);
  });

  for (const uid of ['specwatch', 'specwatch-session', 'specwatch-nights', 'specwatch-health']) {
    test(`${uid} is there, explained, and shows data in every panel`, async ({ page, request }) => {
      const { dashboard } = (await (await request.get(`/api/dashboards/uid/${uid}`)).json()) as {
        dashboard: { liveNow: boolean; panels: Panel[] };
      };
      expect(dashboard.liveNow).toBe(true);
      for (const panel of dashboard.panels.flatMap((one) => [one, ...(one.panels ?? [])])) {
        expect(panel.type === 'row' || panel.description, panel.title).toBeTruthy();
      }
      await page.goto(`/d/${uid}?from=now-1h&to=now&var-session=${session}`);
      // A row that is closed is for those who have a Prometheus.
      for (const { title } of dashboard.panels.filter((one) => one.type !== 'row')) {
        const panel = page.getByTestId(`data-testid Panel header ${title}`);
        await expect(panel).toBeVisible({ timeout: 60_000 });
        const shown = () =>
          panel.evaluate(
            (all, name) =>
              all.querySelectorAll('canvas').length + (all.textContent ?? '').replace(name, '').trim().length,
            title
          );
        await expect.poll(shown, { message: title }).toBeGreaterThan(0);
        await expect(panel).not.toContainText('No data');
        await expect(panel.getByTestId('data-testid Panel status error')).toHaveCount(0);
      }
    });
  }

  for (const width of [800, 390]) {
    test(`at ${width} px titles are whole, and nothing lies beside the page`, async ({ page, request }) => {
      await page.setViewportSize({ width, height: 6_000 });
      for (const uid of ['specwatch', 'specwatch-session', 'specwatch-nights', 'specwatch-health']) {
        const { dashboard } = (await (await request.get(`/api/dashboards/uid/${uid}`)).json()) as {
          dashboard: { panels: Panel[] };
        };
        await page.goto(`/d/${uid}?from=now-1h&to=now&var-session=${session}`);
        for (const { title } of dashboard.panels.filter((one) => one.type !== 'row')) {
          const heading = page.getByTestId(`data-testid Panel header ${title}`).getByRole('heading', { name: title });
          await expect(heading.first()).toBeVisible({ timeout: 60_000 });
          const cut = () => heading.first().evaluate((text) => text.scrollWidth - text.clientWidth);
          await expect.poll(cut, { message: `${uid}, ${title}` }).toBeLessThanOrEqual(0);
        }
        const beside = () =>
          page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        expect(await beside(), uid).toBe(0);
      }
    });
  }

  for (const renderer of ['', '&scenes']) {
    test(`a name that is markup is shown as text, and nothing is loaded for it${renderer && ', scenes'}`, async ({
      page,
    }) => {
      const trap = 'specwatch-trap';
      const name = `<img src="/${trap}?${Date.now()}">`;
      await write(
        { kind: 'spec_started', session: name, spec: name },
        { kind: 'intervention_request', session: name, spec: name, data: { question: name, options: [name] } },
        { kind: 'spec_failed', session: name, spec: name, data: { reason: name, output: name } }
      );
      const loaded: string[] = [];
      page.on('request', (request) => {
        if (new URL(request.url()).pathname.includes(trap)) {
          loaded.push(request.url());
        }
      });
      for (const uid of ['specwatch', 'specwatch-session', 'specwatch-nights']) {
        await page.goto(
          `/d/${uid}?from=now-15m&to=now&var-datasource=specwatch&var-session=${encodeURIComponent(name)}${renderer}`
        );
        await expect(page.getByText(name).first()).toBeVisible({ timeout: 60_000 });
        await page.waitForLoadState('networkidle');
        if (uid !== 'specwatch-nights') {
          await page.getByTestId('data-testid annotation-marker').first().dispatchEvent('mouseenter');
          await expect(page.getByText('spec_failed').or(page.getByText('intervention_request')).first()).toBeVisible();
        }
        for (const canvas of await page.locator('[data-testid^="data-testid Panel header"] canvas').all()) {
          await canvas.hover({ force: true }); // its tooltip
        }
      }
      expect(loaded).toEqual([]);
      await expect(page.locator(`img[src*="${trap}"]`)).toHaveCount(0);
    });
  }

  for (const renderer of ['', '&scenes']) {
    test(`the table of sessions has all its columns at 1400 px${renderer && ', scenes'}`, async ({ page }) => {
      await write({ kind: 'session_heartbeat', session });
      await page.goto(`/d/specwatch?var-datasource=specwatch&var-session=${session}${renderer}`);
      const table = page.getByTestId('data-testid Panel header Sessions');
      const headers = table.getByRole('columnheader');
      await expect(headers.first()).toBeVisible({ timeout: 90_000 });
      const { x, width } = (await table.boundingBox())!;
      const beside = () =>
        headers.evaluateAll(
          (all, right) =>
            all.filter((header) => header.getBoundingClientRect().right > right).map(({ textContent }) => textContent),
          x + width
        );
      await expect.poll(beside).toEqual([]);
    });
  }

  test('the table of sessions shows a long name whole, and opens the session', async ({ page }) => {
    await page.setViewportSize({ width: 1180, height: 2600 });
    await write({ kind: 'session_heartbeat', session }); // it is awake for a minute
    await page.goto(`/d/specwatch?var-session=${session}`);
    const name = page.getByTestId('data-testid Panel header Sessions').getByRole('link', { name: session });
    await expect(name).toBeVisible({ timeout: 60_000 });
    // An ellipsis stands where the text is wider than its cell. Grafana draws
    // the cell more than once, and one that is gone has no width.
    const room = (link: Element) => {
      const text = document.createRange();
      text.selectNodeContents(link);
      const { right, width } = text.getBoundingClientRect();
      return width > 0 ? link.closest('[role="cell"]')!.getBoundingClientRect().right - right : -1;
    };
    await expect.poll(() => name.evaluate(room)).toBeGreaterThanOrEqual(0);
    await name.click();
    await expect(page).toHaveURL(new RegExp(`/d/specwatch-session.*var-session=${session}`));
    await expect(page.getByTestId('data-testid Panel header Status').getByText('awake')).toBeVisible({
      timeout: 60_000,
    });
  });
});
