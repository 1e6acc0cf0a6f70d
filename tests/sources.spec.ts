// The dashboards with two data sources, in a real Grafana and in both of its
// renderers: each shows what the table of the chosen one holds.
import type { Page } from '@playwright/test';

import { admin, grafana, noGrafana } from './frontends';
import { database } from './events';
import { expect, test } from './fixtures';
import { Table } from './table';

const panel = (page: Page, title: string) => page.getByTestId(`data-testid Panel header ${title}`);

// queriesOf lists the types of the queries that the page sends from now on.
function queriesOf(page: Page): string[] {
  const asked: string[] = [];
  page.on('request', (request) => {
    if (request.url().includes('/api/ds/query')) {
      const { queries } = request.postDataJSON() as { queries: Array<{ queryType: string }> };
      asked.push(...queries.map(({ queryType }) => queryType));
    }
  });
  return asked;
}

const number = (n: number) => n.toLocaleString('en-US');

test.describe('two data sources', () => {
  test.skip(!grafana, noGrafana);
  test.use({ baseURL: grafana, extraHTTPHeaders: admin, viewport: { width: 1400, height: 2600 } }); // panels out of sight are not loaded
  test.setTimeout(300_000);

  for (const renderer of ['', '&scenes']) {
    test(`the default one is open, All is all, and the other can be chosen${renderer && ', scenes'}`, async ({
      page,
      request,
      gateway,
      table,
    }) => {
      const events = await Table.open(database.SPECWATCH_SCHEMA!);
      const address = new URL(process.env.SPECWATCH_TEST_DATABASE_URL!);
      // Its name comes first in the alphabet, and it is not the default.
      const made = await request.post('/api/datasources', {
        data: {
          name: `A second one ${Date.now()}`,
          type: 'specwatch-events-datasource',
          access: 'proxy',
          url: address.host,
          user: address.username,
          jsonData: { database: address.pathname.slice(1), schema: gateway.schema, sslmode: 'disable' },
          secureJsonData: { password: address.password },
        },
      });
      const { datasource } = (await made.json()) as { datasource: { uid: string; name: string } };
      try {
        await table.many(1_234, 'elsewhere');
        const completed = async (from: Table) =>
          number(
            Number(
              (
                await from.read(
                  `SELECT count(*) AS n FROM events WHERE kind = 'spec_completed' AND at > now() - interval '1 hour'`
                )
              )[0].n
            )
          );
        const outcomes = panel(page, 'Outcomes');

        await events.many(23, 'old night');
        // The renderer of scenes in Grafana 11.0 knows no default among the values of a variable.
        await page.goto(`/d/specwatch?from=now-1h&to=now${renderer && `${renderer}&var-datasource=specwatch`}`);
        await expect(outcomes.getByText(await completed(events), { exact: true }).first()).toBeVisible({
          timeout: 90_000,
        });
        await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 60_000 });
        // A session that begins after the page was opened.
        await events.many(17, `new night ${Date.now()}`);
        await expect(outcomes.getByText(await completed(events), { exact: true }).first()).toBeVisible({
          timeout: 60_000,
        });
        await expect(panel(page, 'Events').getByText('spec_completed spec 17').first()).toBeVisible();

        await page.goto(`/d/specwatch?from=now-1h&to=now&var-datasource=${datasource.uid}${renderer}`);
        await expect(outcomes.getByText('1,234', { exact: true })).toBeVisible({ timeout: 90_000 });
        await expect(panel(page, 'Sessions').getByText('elsewhere').first()).toBeVisible();
        await expect(panel(page, 'Sessions')).not.toContainText('night');
      } finally {
        await events.close();
        await request.delete(`/api/datasources/uid/${datasource.uid}`);
      }
    });

    test(`in polling mode the built-in panels poll, whatever the picker says${renderer && ', scenes'}`, async ({
      page,
    }) => {
      const events = await Table.open(database.SPECWATCH_SCHEMA!);
      await page.addInitScript(() => localStorage.setItem('specwatch.settings', '{"pollingInterval":5}'));
      await page.goto(`/d/specwatch?from=now-1h&to=now&var-datasource=specwatch&var-specwatch_mode=polling${renderer}`);
      await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'delayed', { timeout: 90_000 });
      const spec = `polled ${Date.now()}`;
      await events.insert('spec_completed', 'polled', spec);
      await expect(panel(page, 'Events').getByText(`spec_completed ${spec}`).first()).toBeVisible({ timeout: 60_000 });
      await page.getByRole('radio', { name: 'Live' }).check();
      await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 60_000 });
      await events.insert('spec_completed', 'polled', `${spec} live`);
      await expect(panel(page, 'Events').getByText(`spec_completed ${spec} live`).first()).toBeVisible({
        timeout: 60_000,
      });
      await expect(page).not.toHaveURL(/refresh=\d/);
      // The toggle does the same as the address.
      await page.getByRole('radio', { name: 'Polling' }).check();
      await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'delayed');
      await events.insert('spec_completed', 'polled', `${spec} again`);
      await expect(panel(page, 'Events').getByText(`spec_completed ${spec} again`).first()).toBeVisible({
        timeout: 60_000,
      });
      await page.getByRole('radio', { name: 'Live' }).check();
      await expect(page).not.toHaveURL(/refresh=\d/);
      await events.close();
    });

    test(`in live mode a session falls asleep without an event${renderer && ', scenes'}`, async ({ page }) => {
      const events = await Table.open(database.SPECWATCH_SCHEMA!);
      const session = `falls silent ${Date.now()}`;
      await page.goto(`/d/specwatch?from=now-1h&to=now&var-datasource=specwatch${renderer}`);
      await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 90_000 });
      await events.read(
        `INSERT INTO events (kind, session, spec, at) VALUES ('spec_started', '${session}', 'spec', now() - interval '51 seconds'),
         ('session_heartbeat', '${session}', '', now() - interval '50 seconds')`
      );
      const row = panel(page, 'Sessions').getByRole('row').filter({ hasText: session });
      await expect(row.getByText('awake')).toBeVisible();
      await expect(row.getByText('asleep')).toBeVisible({ timeout: 40_000 });
      await events.close();
    });

    test(`a session of the past is not queried again, except for its present state${renderer && ', scenes'}`, async ({
      page,
    }) => {
      const events = await Table.open(database.SPECWATCH_SCHEMA!);
      const session = `of the past ${Date.now()}`;
      await events.read(
        `INSERT INTO events (kind, session, spec, at) VALUES ('spec_completed', '${session}', 'spec', now() - interval '3 days')`
      );
      const to = Date.now() - 2 * 86_400_000;
      await page.addInitScript(() => localStorage.setItem('specwatch.settings', '{"pollingInterval":5}'));
      await page.goto(
        `/d/specwatch-session?from=${to - 2 * 86_400_000}&to=${to}&var-datasource=specwatch&var-session=${encodeURIComponent(session)}${renderer}`
      );
      await expect(panel(page, 'Events')).toContainText('spec_completed spec', { timeout: 90_000 });
      // Its five stats are of now, and are polled. All panels are queried once more when
      // the stream connects, which takes less than the first polls.
      const asked = queriesOf(page);
      const polls = (n: number) =>
        expect
          .poll(() => asked.filter((type) => type === 'sessions').length, { timeout: 90_000 })
          .toBeGreaterThan(n * 5);
      await polls(3);
      asked.length = 0;
      await polls(3);
      expect(asked.filter((type) => type !== 'sessions')).toEqual([]);
      await events.close();
    });

    test(`the annotations are those of the chosen session${renderer && ', scenes'}`, async ({ page }) => {
      const events = await Table.open(database.SPECWATCH_SCHEMA!);
      const [one, other] = ['one', 'other'].map((name) => `annotated ${name} ${Date.now()}`);
      await events.insert('spec_failed', one, 'spec');
      await events.insert('spec_failed', other, 'spec');
      await page.goto(
        `/d/specwatch-session?from=now-15m&to=now&var-datasource=specwatch&var-session=${encodeURIComponent(one)}${renderer}`
      );
      const marker = page.getByTestId('data-testid annotation-marker');
      await expect(marker).toHaveCount(1, { timeout: 60_000 });
      await marker.dispatchEvent('mouseenter');
      await expect(page.getByText(one, { exact: true }).last()).toBeVisible();
      await events.close();
    });

    test(`Nights shows what failed and why, who was asked, and leads to the session${renderer && ', scenes'}`, async ({
      page,
    }) => {
      const events = await Table.open(database.SPECWATCH_SCHEMA!);
      const session = `a night & more ${Date.now()}`;
      await events.insert('spec_started', session, 'login');
      await events.insert('intervention_request', session, 'login', { question: 'Which port?' });
      await events.insert('intervention_answered', session, 'login', { answer: '8080' });
      await events.insert('spec_failed', session, 'login', { reason: 'the port is taken' });
      // Of the last 30 days, also where the range is of a year ago.
      const aYearAgo = Date.now() - 365 * 86_400_000;
      await page.goto(
        `/d/specwatch-nights?from=${aYearAgo}&to=${aYearAgo + 3_600_000}&var-datasource=specwatch${renderer}`
      );
      for (const title of ['Night against night, last 30 days', 'Specs that fail, last 30 days']) {
        await expect(panel(page, title).getByRole('row').nth(1)).toBeVisible({ timeout: 90_000 });
      }
      await page.goto(`/d/specwatch-nights?from=now-1h&to=now&var-datasource=specwatch${renderer}`);
      await expect(panel(page, 'What failed, and why')).toContainText('the port is taken', { timeout: 90_000 });
      await expect(panel(page, 'Who was asked')).toContainText('Which port?');
      await expect(panel(page, 'Who was asked')).toContainText('8080');
      const link = panel(page, 'What failed, and why').getByRole('link', { name: session }).first();
      const address = await link.getAttribute('href');
      await page.goto(`${address}${renderer}`);
      await expect(page).toHaveURL(/\/d\/specwatch-session/);
      await expect(panel(page, 'Status').getByText('awake')).toBeVisible({ timeout: 60_000 });
      await expect(panel(page, 'Events')).toContainText('spec_failed login', { timeout: 60_000 });
      // The range is half an hour to both sides of the event, in either renderer.
      const { searchParams } = new URL(page.url());
      const [from, to] = ['from', 'to'].map((end) => searchParams.get(end)!).map((at) => Number(at) || Date.parse(at));
      expect(to - from).toBe(3_600_000);
      await expect(page.getByTestId('data-testid TimePicker Open Button')).toContainText(' to ');
      await events.close();
    });
  }

  test('over five years every start counts, and what is over is not asked for again', async ({ page }) => {
    const events = await Table.open(database.SPECWATCH_SCHEMA!);
    await events.read(
      `INSERT INTO events (kind, session, spec, at) SELECT kind, 'of year ' || i, 'spec', now() - interval '5 years' * i / 1500 - interval '1 hour'
       FROM generate_series(1, 1499) i, unnest(array['spec_started', 'spec_completed']) kind`
    );
    const started = async (range: string) =>
      number(
        Number((await events.read(`SELECT count(*) AS n FROM events WHERE kind = 'spec_started' AND ${range}`))[0].n)
      );
    await page.goto('/d/specwatch?from=now-5y&to=now');
    await expect(
      panel(page, 'Outcomes')
        .getByText(await started(`at > now() - interval '5 years'`), { exact: true })
        .first()
    ).toBeVisible({ timeout: 90_000 });

    const to = Date.now() - 3 * 86_400_000;
    const from = to - 300 * 86_400_000;
    await page.goto(`/d/specwatch?from=${from}&to=${to}`);
    await expect(
      panel(page, 'Outcomes')
        .getByText(await started(`at BETWEEN to_timestamp(${from / 1_000}) AND to_timestamp(${to / 1_000})`), {
          exact: true,
        })
        .first()
    ).toBeVisible({ timeout: 90_000 });
    await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 60_000 });
    await page.waitForLoadState('networkidle');
    const asked = queriesOf(page);
    for (const spec of ['one', 'two', 'three']) {
      await events.insert('spec_completed', 'of now', spec);
      await expect(page.getByTestId('event-row').filter({ hasText: spec }).first()).toBeVisible();
    }
    await expect.poll(() => asked.length).toBeGreaterThan(0);
    // Sessions are as they are now, and a stat with a range of its own moves.
    expect(asked.filter((type) => !['heartbeat_age', 'overview', 'sessions'].includes(type))).toEqual([]);
    await events.close();
  });

  test('Explore: Live follows, and the volume of the log lines is drawn', async ({ page }) => {
    const events = await Table.open(database.SPECWATCH_SCHEMA!);
    await events.many(5, 'explored');
    const panes = {
      a: {
        datasource: 'specwatch',
        queries: [
          {
            refId: 'A',
            queryType: 'logs',
            sessions: ['explored'],
            mode: 'polling',
            datasource: { type: 'specwatch-events-datasource', uid: 'specwatch' },
          },
        ],
        range: { from: 'now-1h', to: 'now' },
      },
    };
    await page.goto(`/explore?schemaVersion=1&orgId=1&panes=${encodeURIComponent(JSON.stringify(panes))}`);
    await expect(page.getByText('spec_completed spec 5').first()).toBeVisible({ timeout: 90_000 });
    await expect(page.getByText(/Logs volume/).first()).toBeVisible();
    await expect(page.getByText(/does not support full range histograms|No logs volume available/)).toHaveCount(0);
    await page.getByText('spec_completed spec 5').first().click();
    const link = page.getByRole('link', { name: 'This session' }).first();
    await expect(link).toHaveAttribute('href', /\/d\/specwatch-session\?.*var-session=explored&from=\d+&to=\d+$/);
    await page.getByRole('button', { name: 'Live', exact: true }).click();
    const spec = `followed ${Date.now()}`;
    await events.insert('spec_completed', 'explored', spec);
    await expect(page.getByText(`spec_completed ${spec}`).first()).toBeVisible();
    await events.close();
  });

  test('a menu that lists a part of the sessions says so, with both numbers', async ({ page }) => {
    const events = await Table.open(database.SPECWATCH_SCHEMA!);
    await events.read(
      `INSERT INTO events (kind, session, at) SELECT 'session_heartbeat', 'listed ' || i, now() - interval '20 days' FROM generate_series(1, 1200) i`
    );
    const [{ n }] = await events.read(
      `SELECT count(DISTINCT session) AS n FROM events WHERE at > now() - interval '30 days'`
    );
    await page.goto('/d/specwatch');
    await expect(page.getByText(`A menu lists 1,000 of ${number(Number(n))} sessions`)).toBeVisible({
      timeout: 60_000,
    });
    await events.close();
  });
});
