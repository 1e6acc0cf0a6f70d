// The real page over a scripted gateway: whatever events hold, and whatever
// fails, the page goes on.
import { type Page, type WebSocketRoute } from '@playwright/test';
import fc from 'fast-check';

import { compact } from '../src/connection/json';
import type { SpecEvent, State } from '../src/connection/model';
import { expect, test } from './fixtures';
import * as strange from './strange';

const rows = (page: Page) => page.getByTestId('event-row');
const failed = (page: Page) => page.getByTestId('failed');

// Script takes the gateway's place behind its page.
class Script {
  private socket?: WebSocketRoute;
  private cursor = 0;
  state = strange.empty();

  async attach(page: Page): Promise<void> {
    await page.routeWebSocket(/\/ws/, (socket) => {
      this.socket = socket;
      socket.send(
        JSON.stringify({
          type: 'connection_established',
          cursor: String(this.cursor),
          data: { state: this.state, events: [] },
        })
      );
      socket.onMessage(() => socket.send('{"type":"pong"}'));
    });
    await page.route('**/api/status*', (route) =>
      route.fulfill({
        contentType: 'application/json',
        body: compact({
          events: [],
          cursor: String(this.cursor),
          more: false,
          timestamp: new Date().toISOString(),
          mode: 'polling',
          state: this.state,
        }),
      })
    );
  }

  push(events: SpecEvent[], state?: State): void {
    this.state = state ?? this.state;
    const from = String(this.cursor++);
    this.socket!.send(compact({ type: 'event_update', from, cursor: String(this.cursor), data: { events, state } }));
  }
}

async function openScript(page: Page, url: string): Promise<Script> {
  const script = new Script();
  await script.attach(page);
  await page.goto(url);
  await expect(page.getByRole('status')).toHaveAttribute('data-status', 'live');
  return script;
}

test('no event blanks the page, whatever it holds', async ({ page, gateway }) => {
  test.setTimeout(240_000);
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(error.message));
  const script = await openScript(page, gateway.url);
  let id = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(strange.event, { minLength: 1, maxLength: 8 }), strange.state, async (events, state) => {
      const marker = `marker ${++id}`;
      script.push(
        [...events.map((e) => ({ ...e, id: ++id })), strange.told(++id, { spec: marker, at: strange.topmost })],
        state
      );
      await expect(rows(page).filter({ hasText: marker })).toHaveCount(1);
      const list = page.getByRole('region', { name: 'List of events' });
      await list.evaluate((element) => (element.scrollTop = Math.random() * element.scrollHeight));
      const first = rows(page).getByRole('button').first();
      await first.click({ position: { x: 4, y: 10 } });
      await list.evaluate((element) => (element.scrollTop = 0));
      expect(faults).toEqual([]);
      await expect(failed(page)).toHaveCount(0);
      await expect(page.getByTestId('glance')).not.toContainText(strange.notCounted);
      expect(
        await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      ).toBe(0);
    }),
    { numRuns: 60, endOnFailure: true, interruptAfterTimeLimit: 90_000 }
  );
});

test('a view that fails says so, the rest works, and it comes back with the next data', async ({ page, gateway }) => {
  // The page's own code fails where it prints the year 2001.
  await page.addInitScript(() => {
    const get = Object.getOwnPropertyDescriptor(Intl.DateTimeFormat.prototype, 'format')!.get!;
    Object.defineProperty(Intl.DateTimeFormat.prototype, 'format', {
      get() {
        const print = get.call(this) as (at: Date) => string;
        return (at: Date) => {
          if (new Date(at).getFullYear() === 2001) {
            throw new Error('a fault made for this test');
          }
          return print(at);
        };
      },
    });
  });
  const script = await openScript(page, gateway.url);
  script.push([strange.told(1), strange.told(2, { at: '2001-01-01T00:00:00Z' })]);
  await expect(rows(page)).toHaveCount(2);
  await expect(rows(page).filter({ hasText: 'spec 1' })).toBeVisible();
  await expect(rows(page).nth(1)).toContainText('Event 2 cannot be shown');
  script.push([
    strange.told(3, { kind: 'spec_started', at: '2001-01-01T00:00:00Z' }),
    strange.told(4, { kind: 'spec_completed', spec: 'spec 3' }),
  ]);
  const timeline = page.getByTestId('failed').filter({ hasText: 'The timeline cannot be shown' });
  await expect(timeline).toContainText('a fault made for this test');
  await expect(page.getByRole('status')).toHaveAttribute('data-status', 'live');
  await expect(page.getByTestId('glance')).toBeVisible();
  await page.getByRole('button', { name: 'Settings' }).click();
  await expect(page.getByRole('dialog')).toBeVisible();
  await page.keyboard.press('Escape');
});

test('custom kinds are shown under their own names', async ({ page, gateway }) => {
  const script = await openScript(page, gateway.url);
  script.push([
    strange.told(1, { kind: 'claude.cost', data: { usd: 0.25 } }),
    strange.told(2, { kind: 'constructor' }),
    strange.told(3),
  ]);
  await expect(rows(page)).toHaveCount(3);
  await expect(rows(page).filter({ hasText: 'claude.cost' })).toContainText('usd 0.25');
  await page.getByRole('search').getByText('claude.cost').click();
  await expect(rows(page)).toHaveCount(1);
});

test('a database that cannot push is told, with its delay', async ({ page, gateway }) => {
  const script = new Script();
  script.state.delivery = { push: false, delaySeconds: 0.1 };
  await script.attach(page);
  await page.goto(gateway.url);
  await expect(page.getByText('checked every 0.1 s', { exact: true })).toBeVisible();
  await expect(page.getByTestId('note')).toContainText('pooler');
  script.push([strange.told(1)], { ...strange.empty(), delivery: { push: true, delaySeconds: 0 } });
  await expect(page.getByText('push on event')).toBeVisible();
  await expect(page.getByTestId('note')).toHaveCount(0);
});
