// A real Grafana whose Live is switched off, over the events of the Grafana that
// all tests share.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';

import { admin, grafana, noGrafana } from './frontends';
import { write } from './events';
import { expect, test } from './fixtures';

// Start is how the command that starts the shared Grafana has started it.
interface Start {
  program: string;
  args: string[];
  env: string[];
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((listens) => server.once('listening', listens));
  const { port } = server.address() as AddressInfo;
  await new Promise((closed) => server.close(closed));
  return port;
}

test.describe('with Grafana Live switched off on the server', () => {
  test.skip(!grafana, noGrafana);
  test.use({ extraHTTPHeaders: admin, viewport: { width: 1400, height: 2600 } }); // panels out of sight are not loaded
  test.setTimeout(180_000);

  let server: ChildProcess | undefined;
  let data = '';
  let address = '';
  test.beforeAll(async () => {
    test.setTimeout(300_000);
    if (!grafana) {
      return;
    }
    const start = JSON.parse(process.env.SPECWATCH_TEST_GRAFANA_START!) as Start;
    data = await mkdtemp(path.join(os.tmpdir(), 'specwatch-nolive-'));
    const port = await freePort();
    address = `http://127.0.0.1:${port}`;
    server = spawn(start.program, start.args, {
      env: {
        ...process.env,
        ...Object.fromEntries(start.env.map((setting) => setting.split(/=(.*)/s).slice(0, 2) as [string, string])),
        GF_PATHS_DATA: data,
        GF_PATHS_LOGS: path.join(data, 'log'),
        GF_SERVER_HTTP_PORT: String(port),
        GF_LIVE_MAX_CONNECTIONS: '0',
      },
      stdio: 'ignore',
    });
    const healthy = () =>
      fetch(`${address}/api/health`).then(
        ({ status }) => status,
        () => 0
      );
    await expect.poll(healthy, { timeout: 240_000 }).toBe(200);
  });
  test.afterAll(async () => {
    if (server && server.exitCode === null) {
      const ended = new Promise((resolve) => server!.once('exit', resolve));
      server.kill('SIGINT');
      await ended;
    }
    if (data) {
      await rm(data, { recursive: true, force: true });
    }
  });

  for (const renderer of ['', '&scenes']) {
    test(`the panel says so, and all panels are polled${renderer && ', scenes'}`, async ({ page }) => {
      await page.addInitScript(() => localStorage.setItem('specwatch.settings', '{"pollingInterval":5}'));
      const sockets: string[] = [];
      page.on('websocket', (socket) => sockets.push(socket.url()));
      await write({ kind: 'spec_started', session: 'not live', spec: 'before' });
      await page.goto(`${address}/d/specwatch?from=now-1h&to=now&var-datasource=specwatch${renderer}`);
      const badge = page.locator('[role=status][data-status]'); // Grafana has another while it loads
      await expect(badge).toBeVisible({ timeout: 90_000 });
      // Both attempts to open the stream fail at once, and the first poll is answered.
      await expect(badge).toHaveText('Delayed mode (polling every 5s)', { timeout: 15_000 });
      await expect(
        page.getByText('Grafana Live is switched off on this server (max_connections = 0 in its settings).').first()
      ).toBeVisible();
      const panel = (title: string) => page.getByTestId(`data-testid Panel header ${title}`);
      for (const spec of ['one', 'two'].map((name) => `${name} ${Date.now()}`)) {
        await write({ kind: 'spec_completed', session: `not live ${spec}`, spec });
        await expect(page.getByTestId('event-row').filter({ hasText: spec }).first()).toBeVisible();
        await expect(panel('Events').getByText(`spec_completed ${spec}`).first()).toBeVisible();
        await expect(panel('Sessions').getByText(`not live ${spec}`).first()).toBeVisible();
      }
      await expect(page).toHaveURL(/var-specwatch_mode=websocket/);
      expect(sockets).toEqual([]);
    });
  }
});
