// From an event to a message, through a real Grafana with the rules, the
// policy and the contact point that are provisioned.
import { type Server, createServer } from 'node:http';
import { text } from 'node:stream/consumers';

import { expect, test } from '@playwright/test';

import { admin, grafana, noGrafana } from './frontends';
import { write } from './events';

interface Message {
  status: 'firing' | 'resolved';
  title: string;
  groupLabels: { session?: string; spec?: string };
  alerts: Array<{ labels: Record<string, string>; annotations: Record<string, string> }>;
}

interface Rules {
  data: {
    groups: Array<{
      rules: Array<{ name: string; health: string; alerts?: Array<{ state: string; labels: Record<string, string> }> }>;
    }>;
  };
}

test.describe('alerts', () => {
  test.skip(!grafana, noGrafana);
  test.use({ baseURL: grafana, extraHTTPHeaders: admin, viewport: { width: 1400, height: 2600 } }); // panels out of sight are not loaded
  // The rules are evaluated every 30 s and messages of a group come at least
  // a minute apart; a new Grafana takes up to another to apply the policy.
  test.setTimeout(300_000);
  const patience = { timeout: 120_000, intervals: [1_000] };

  const messages: Message[] = [];
  let receiver: Server;
  test.beforeAll(async () => {
    receiver = createServer(async (request, response) => {
      messages.push(JSON.parse(await text(request)) as Message);
      response.end();
    });
    // Grafana was told the port when it started; until then another process may
    // have it for a connection of its own.
    for (const late = Date.now() + 30_000; ;) {
      const refused = await new Promise<NodeJS.ErrnoException | undefined>((done) => {
        receiver.once('error', done);
        receiver.listen(Number(process.env.SPECWATCH_TEST_WEBHOOK_PORT), '127.0.0.1', () => {
          receiver.off('error', done);
          done(undefined);
        });
      });
      if (!refused) {
        return;
      }
      if (refused.code !== 'EADDRINUSE' || Date.now() > late) {
        throw refused;
      }
      await new Promise((again) => setTimeout(again, 100));
    }
  });
  test.afterAll(() => receiver?.close());

  test('a timeout sends one message and resolves when the spec completes', async ({ page, request }) => {
    const session = `night & day ${Date.now()}`;
    const spec = 'specs/log in.md';
    const rules = async () => {
      const answer = (await (await request.get('/api/prometheus/grafana/api/v1/rules')).json()) as Rules;
      return answer.data.groups.flatMap((group) => group.rules);
    };
    const state = async () =>
      (await rules())
        .find((rule) => rule.name === 'Spec timed out')
        ?.alerts?.find((alert) => alert.labels.session === session)?.state;
    const told = () =>
      messages.filter((message) => message.groupLabels.session === session).map((message) => message.status);

    const before = Date.now();
    await write({ kind: 'spec_started', session, spec }, { kind: 'timeout_triggered', session, spec });
    const after = Date.now();
    await expect.poll(state, patience).toBe('Alerting');
    await expect.poll(async () => (await rules()).map((rule) => rule.health), patience).toEqual(Array(6).fill('ok'));
    await expect.poll(told, patience).toEqual(['firing']);

    const [message] = messages.filter((one) => one.groupLabels.session === session);
    expect(message.groupLabels).toEqual({ session, spec });
    expect(message.title).toContain(spec);
    expect(message.alerts).toHaveLength(1);
    const { labels, annotations } = message.alerts[0];
    expect(labels).toMatchObject({ alertname: 'Spec timed out', session, spec, severity: 'warning' });
    expect(annotations.summary).toBe(`Spec ${spec} of session ${session} timed out`);
    const link = new URL(annotations.dashboard);
    expect(link.pathname).toBe('/d/specwatch-session');
    expect(link.searchParams.get('var-session')).toBe(session);
    expect(link.searchParams.get('var-datasource')).toBe('specwatch'); // a server may have several
    // Grafana draws the states of a rule that names a panel over that panel,
    // whichever data source it shows.
    const provisioned = await (await request.get('/api/v1/provisioning/alert-rules')).text();
    expect(provisioned).not.toMatch(/__panelId__|__dashboardUid__/);
    const half = 30 * 60_000;
    for (const [parameter, offset] of [
      ['from', -half],
      ['to', half],
    ] as const) {
      const moment = Number(link.searchParams.get(parameter)) - offset;
      expect(moment).toBeGreaterThanOrEqual(before);
      expect(moment).toBeLessThanOrEqual(after);
    }
    await page.goto(link.pathname + link.search);
    await expect(page.getByText(`timeout_triggered ${spec}`)).toBeVisible({ timeout: 60_000 });

    await write({ kind: 'spec_completed', session, spec });
    await expect.poll(told, patience).toEqual(['firing', 'resolved']);
    expect(await state()).not.toBe('Alerting');
  });
});
