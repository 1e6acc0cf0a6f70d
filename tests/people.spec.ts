// Who may see and answer, in a real Grafana.
import type { APIRequestContext, Browser, BrowserContext, Page } from '@playwright/test';

import { admin, grafana, noGrafana } from './frontends';
import { database, write } from './events';
import { expect, test } from './fixtures';
import { Table } from './table';

const password = 'of a test';

// signedIn makes a user of an organization, by default that of the data source,
// and signs them in.
async function signedIn(request: APIRequestContext, browser: Browser, role: string, org = 1): Promise<BrowserContext> {
  const login = `${role} ${Date.now()}`.toLowerCase();
  const made = await request.post('/api/admin/users', { data: { login, name: login, password, OrgId: org } });
  const { id } = (await made.json()) as { id: number };
  expect((await request.patch(`/api/orgs/${org}/users/${id}`, { data: { role } })).status()).toBe(200);
  const context = await browser.newContext({ baseURL: grafana, extraHTTPHeaders: {} });
  expect((await context.request.post('/login', { data: { user: login, password } })).status()).toBe(200);
  return context;
}

// subscription asks Grafana Live for a channel as the page's user, and says
// what came of it.
const subscription = (page: Page, channel: string): Promise<string> =>
  page.evaluate(
    (name) =>
      new Promise<string>((done) => {
        const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/api/live/ws`);
        socket.onopen = () => socket.send(JSON.stringify({ id: 1, connect: {} }));
        socket.onclose = () => done('not connected');
        socket.onmessage = ({ data }) => {
          for (const line of String(data).split('\n')) {
            const reply = JSON.parse(line) as { id?: number; error?: { message: string } };
            if (reply.id === 1) {
              socket.send(JSON.stringify({ id: 2, subscribe: { channel: name } }));
            } else if (reply.id === 2) {
              done(reply.error ? 'refused' : 'subscribed');
            }
          }
        };
      }),
    channel
  );

test.describe('people', () => {
  test.skip(!grafana, noGrafana);
  test.use({ baseURL: grafana, extraHTTPHeaders: admin });
  test.setTimeout(120_000);

  test('whoever may not query may not subscribe', async ({ request, browser }) => {
    const { orgId: elsewhere } = (await (
      await request.post('/api/orgs', { data: { name: `Others ${Date.now()}` } })
    ).json()) as { orgId: number };
    const people: Array<[context: BrowserContext, org: number, may: boolean]> = [
      [await signedIn(request, browser, 'Viewer'), 1, true],
      [await signedIn(request, browser, 'None'), 1, false],
      [await signedIn(request, browser, 'Admin', elsewhere), 1, false],
      [await signedIn(request, browser, 'Editor', elsewhere), elsewhere, false],
      // Nobody signed in: the server takes them for viewers.
      [await browser.newContext({ baseURL: grafana, extraHTTPHeaders: {} }), 1, true],
    ];
    for (const [context, org, may] of people) {
      const page = await context.newPage();
      await page.goto('/login');
      const query = await context.request.post('/api/ds/query', {
        data: {
          from: 'now-1h',
          to: 'now',
          queries: [{ refId: 'A', queryType: 'events', datasource: { uid: 'specwatch' } }],
        },
      });
      expect(query.ok()).toBe(may);
      expect(await subscription(page, `${org}/ds/specwatch/events`)).toBe(may ? 'subscribed' : 'refused');
      await context.close();
    }
  });

  for (const renderer of ['', '&scenes']) {
    test(`an Editor answers a question, a Viewer reads why not${renderer && ', scenes'}`, async ({
      request,
      browser,
    }) => {
      const table = await Table.open(database.SPECWATCH_SCHEMA!);
      const session = `asks ${Date.now()}`;
      await write({
        kind: 'intervention_request',
        session,
        spec: 'ports',
        data: { question: `Which port for ${session}?`, options: ['8080', '9090'] },
      });
      const open = async (context: BrowserContext) => {
        const page = await context.newPage();
        await page.goto(`/d/specwatch?viewPanel=1${renderer}`);
        const question = page.getByTestId('question').filter({ hasText: session });
        await expect(question).toBeVisible({ timeout: 90_000 });
        return { page, question };
      };
      const viewer = await signedIn(request, browser, 'Viewer');
      const sees = await open(viewer);
      await expect(sees.question.getByTestId('cannot-answer')).toHaveText(
        'Answering needs the role Editor in this organization of Grafana.'
      );
      await expect(sees.question.getByRole('textbox')).toHaveCount(0);

      const editor = await signedIn(request, browser, 'Editor');
      const answers = await open(editor);
      await answers.question.getByRole('button', { name: '9090' }).click();
      await expect(answers.question).toHaveCount(0);
      await expect(sees.question).toHaveCount(0); // pushed to whoever looks
      expect(
        await table.read(
          `SELECT spec, data ->> 'answer' AS answer FROM events WHERE kind = 'intervention_answered' AND session = '${session}'`
        )
      ).toEqual([{ spec: 'ports', answer: '9090' }]);
      await viewer.close();
      await editor.close();
      await table.close();
    });
  }
});
