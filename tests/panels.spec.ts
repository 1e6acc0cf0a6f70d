// Grafana's own panels on Specwatch queries, in a real Grafana.
import type { Page } from '@playwright/test';

import { admin, grafana, grafanaFrontend, noGrafana } from './frontends';
import { expect, test } from './fixtures';

const source = { type: 'specwatch-events-datasource', uid: 'specwatch' };

// One panel of each kind, over the events of one session.
function dashboard(session: string, mode: string) {
  const panels = [
    // no more rows in the table than fit: it is virtual
    ['table', 'events'],
    ['stat', 'outcomes'],
    ['logs', 'logs'],
    ['timeseries', 'counts'],
    ['state-timeline', 'timeline'],
  ].map(([type, queryType], i) => ({
    id: i + 1,
    type,
    title: type,
    datasource: source,
    gridPos: { x: 12 * (i % 2), y: 9 * Math.floor(i / 2), w: 12, h: 9 },
    targets: [
      {
        refId: 'A',
        datasource: source,
        queryType,
        sessions: [session],
        mode,
        limit: 100,
        ...(type === 'table' ? { kinds: ['spec_completed'] } : {}),
      },
    ],
    options:
      type === 'stat' ? { reduceOptions: { calcs: ['lastNotNull'], fields: '/^completed$/' }, textMode: 'value' } : {},
  }));
  return {
    uid: session,
    title: session,
    schemaVersion: 39,
    liveNow: true,
    refresh: '',
    time: { from: 'now-15m', to: 'now' },
    panels,
    templating: {
      list: [
        {
          name: 'specwatch_mode',
          type: 'custom',
          query: 'Live : websocket, Polling : polling',
          current: { text: 'Live', value: 'websocket' },
        },
      ],
    },
  };
}

const panel = (page: Page, title: string) => page.getByTestId(`data-testid Panel header ${title}`);
// A table's rows, the header aside; a log's lines; the one figure of a stat.
const cells = (page: Page, spec: string) => panel(page, 'table').getByRole('cell', { name: spec, exact: true });
const lines = (page: Page, spec: string) => panel(page, 'logs').getByText(`spec_completed ${spec}`, { exact: true });
const completed = (page: Page, n: number) =>
  expect(panel(page, 'stat').getByText(String(n), { exact: true })).toBeVisible();
const lanes = (page: Page) => panel(page, 'state-timeline').locator('canvas').first();

test.describe('built-in panels', () => {
  test.skip(!grafana, noGrafana);
  test.describe.configure({ timeout: 180_000 });

  test('stream in live mode: history first, no gap and no repeat after a reconnect', async ({ page, network }) => {
    const frontend = await grafanaFrontend(network);
    const session = `panels-${Date.now()}`;
    const made = await fetch(`${grafana}/api/dashboards/db`, {
      method: 'POST',
      headers: { ...admin, 'Content-Type': 'application/json' },
      body: JSON.stringify({ dashboard: dashboard(session, '$specwatch_mode'), overwrite: true }),
    });
    expect(made.status, await made.text()).toBe(200);
    const write = async (spec: string) => {
      await frontend.table.insert('spec_started', session, spec);
      await frontend.table.insert('spec_completed', session, spec);
    };
    const shows = async (...specs: string[]) => {
      await completed(page, specs.length);
      for (const spec of specs) {
        await expect(cells(page, spec)).toHaveCount(1, { timeout: 30_000 });
        await expect(lines(page, spec)).toHaveCount(1);
      }
    };
    await write('history');
    await page.setViewportSize({ width: 1400, height: 1300 });
    await page.setExtraHTTPHeaders(admin);
    await page.goto(`http://${frontend.link.address}/d/${session}`);
    await expect(panel(page, 'table')).toBeVisible({ timeout: 90_000 });
    await shows('history');
    await expect(lanes(page)).toBeVisible();

    await write('pushed');
    await shows('history', 'pushed');

    await frontend.link.cut();
    await write('meanwhile');
    await frontend.link.mend();
    await shows('history', 'pushed', 'meanwhile');

    // A refresh does not blank what streams.
    let blank = 0;
    await page.exposeFunction('blanked', () => blank++);
    await panel(page, 'table').evaluate((element) => {
      new MutationObserver(
        () => element.textContent?.includes('history') || (window as unknown as { blanked(): void }).blanked()
      ).observe(element, { childList: true, subtree: true, characterData: true });
    });
    await page.getByTestId('data-testid RefreshPicker run button').click();
    await write('after-refresh');
    await shows('history', 'pushed', 'meanwhile', 'after-refresh');
    expect(blank).toBe(0);

    // In polling mode nothing moves by itself, and the refresh interval brings it.
    await page.goto(`http://${frontend.link.address}/d/${session}?var-specwatch_mode=polling`);
    await shows('history', 'pushed', 'meanwhile', 'after-refresh');
    await write('polled');
    await page.getByTestId('data-testid RefreshPicker run button').click();
    await shows('history', 'pushed', 'meanwhile', 'after-refresh', 'polled');
    await frontend.close();
  });
});
