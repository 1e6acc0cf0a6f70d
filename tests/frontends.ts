// The two frontends to the same events: the gateway's page, and the panel in a
// real Grafana. Each scenario runs at both.
import { type Page, test as base } from '@playwright/test';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { database } from './events';
import { test } from './fixtures';
import { type Gateway, executable } from './gateway';
import type { Link, Network } from './link';
import { Table } from './table';

export interface Frontend {
  link: Link; // what lies between browser and server
  table: Table;
  open(page: Page, settings: object): Promise<void>;
  specwatch(...args: string[]): Promise<void>;
  restart(): Promise<void>; // the server is away for a moment
  close(): Promise<void>;
}

export const grafana = process.env.SPECWATCH_TEST_GRAFANA;
export const noGrafana = 'GRAFANA_HOME is not set: no Grafana to test in';
export const admin = { Authorization: `Basic ${Buffer.from('admin:admin').toString('base64')}` };

const remember = (page: Page, settings: object) =>
  page.addInitScript(
    (text) => localStorage.setItem('specwatch.settings', text),
    JSON.stringify({ pollingInterval: 5, ...settings })
  );

// refuseStreams is what some proxies do: requests are answered, WebSockets are
// not.
export async function refuseStreams(page: Page): Promise<void> {
  await page.addInitScript(() => {
    window.WebSocket = class extends WebSocket {
      constructor() {
        super('ws://127.0.0.1:9/');
      }
    };
  });
}

export async function pageFrontend(gateway: Gateway, table: Table, network: Network): Promise<Frontend> {
  const link = await network.link(gateway.address);
  return {
    link,
    table,
    open: async (page, settings) => {
      await remember(page, settings);
      await page.goto(`http://${link.address}/`);
    },
    specwatch: async (...args) => void (await gateway.specwatch(...args)),
    restart: () => gateway.restart(),
    close: async () => undefined,
  };
}

export async function grafanaFrontend(network: Network): Promise<Frontend> {
  const link = await network.link(new URL(grafana!).host);
  const table = await Table.open(database.SPECWATCH_SCHEMA!);
  return {
    link,
    table,
    open: async (page, settings) => {
      await remember(page, settings);
      await page.setExtraHTTPHeaders(admin);
      await page.goto(`http://${link.address}/d/specwatch?viewPanel=1`);
    },
    specwatch: async (...args) =>
      void (await promisify(execFile)(executable, args, { env: { ...process.env, ...database } })),
    // Nobody restarts the Grafana that all tests share; to the browser a cut
    // is the same.
    restart: async () => {
      await link.cut();
      await new Promise((away) => setTimeout(away, 1_000));
      await link.mend();
    },
    close: () => table.close(),
  };
}

// inEachFrontend tells a scenario as a test for each frontend.
export function inEachFrontend(title: string, play: (frontend: Frontend, page: Page) => Promise<void>): void {
  test(`${title}, on the gateway's page`, async ({ page, gateway, table, network }) => {
    await play(await pageFrontend(gateway, table, network), page);
  });
  test(`${title}, in Grafana`, async ({ page, network }) => {
    base.skip(!grafana, noGrafana);
    base.slow();
    const frontend = await grafanaFrontend(network);
    try {
      await play(frontend, page);
    } finally {
      await frontend.close();
    }
  });
}

// part shows a part of a view that is too narrow for both.
export const part = (page: Page, name: 'Now' | 'Events') =>
  page.getByRole('radiogroup', { name: 'Part of the view' }).getByRole('radio', { name }).click({ force: true });
