import { resolve } from 'node:path';

import type { Page } from '@playwright/test';

import { complaints } from './axe';
import { openTabs } from './background';
import { part, refuseStreams } from './frontends';
import { expect, test } from './fixtures';
import { Gateway, executable } from './gateway';
import { startProxy } from './proxy';
import { Table } from './table';

const rows = (page: Page) => page.getByTestId('event-row');
const badge = (page: Page) => page.getByRole('status');
const toggle = (page: Page, label: string) =>
  page
    .getByRole('radiogroup', { name: 'Delivery of events' })
    .getByRole('radio', { name: label })
    .click({ force: true });
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
  await page.addInitScript(() =>
    localStorage.setItem('specwatch.settings', '{"preferredMode":"polling","pollingInterval":5}')
  );
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
  // If the link was lost for long enough to fall back to polling, the page asks.
  const back = page.getByRole('button', { name: 'Switch back' });
  await expect(page.locator('[role=status][data-status=live]').or(back).first()).toBeVisible({ timeout: 40_000 });
  if (await back.isVisible()) {
    await back.click();
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
  await expect(page.getByText('The view has started again')).toBeVisible({ timeout: 30_000 });
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await expect(rows(page)).toHaveCount(2);
  await page.getByRole('button', { name: 'OK' }).click();
  await expect(page.getByTestId('note')).toHaveCount(0);
});

// statuses notes each status that the badge has from now on.
const statuses = (page: Page) =>
  page.evaluate(() => {
    const noted = ((window as unknown as { statuses: string[] }).statuses = [] as string[]);
    const badge = document.querySelector('[role=status]')!;
    const note = () => noted.push(badge.getAttribute('data-status')!);
    note();
    new MutationObserver(note).observe(badge, { attributes: true });
  });
const noted = (page: Page) => page.evaluate(() => (window as unknown as { statuses: string[] }).statuses);

test('a tab in the background, whose timers run once a minute, stays Live', async ({ gateway, table }) => {
  test.setTimeout(300_000);
  const { page, toBack, toFront, close } = await openTabs();
  try {
    let sockets = 0;
    page.on('websocket', () => sockets++);
    await page.goto(gateway.url);
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    await statuses(page);
    await page.evaluate(() => {
      const late = ((window as unknown as { late: number[] }).late = [] as number[]);
      let last = Date.now();
      setInterval(() => {
        late.push(Date.now() - last);
        last = Date.now();
      }, 1_000);
    });
    await toBack();
    // Twice in a row a minute passes without a timer.
    await page.waitForFunction(
      () => (window as unknown as { late: number[] }).late.filter((ms) => ms > 55_000).length >= 2,
      null,
      { polling: 1_000, timeout: 240_000 }
    );
    await table.insert('spec_started', 'night', 'unseen');
    await expect(rows(page)).toHaveCount(1);
    expect(await noted(page)).toEqual(['live']);
    expect(sockets).toBe(1);
    await toFront();
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    expect(sockets).toBe(1);
    expect(await noted(page)).not.toContain('offline');
  } finally {
    await close();
  }
});

test('what SQL may write into data is shown', async ({ page, gateway, table }) => {
  const shapes = [
    '{"__proto__":"x"}',
    '{"toString":1}',
    '{"question":{"toString":1}}',
    '[1,[2,{"constructor":null}]]',
    '"text"',
    '42',
    'null',
    '{"question":42}',
    '{"duration_seconds":{"valueOf":1}}',
  ];
  for (const [i, shape] of shapes.entries()) {
    await table.insert('spec_failed', '__proto__', i % 2 ? 'constructor' : 'line\nbreak', shape);
    await table.insert('intervention_request', 'toString', `asks ${i}`, shape);
  }
  await page.goto(gateway.url);
  await expect(page.getByTestId('event-count')).toHaveText(String(2 * shapes.length));
  await expect(page.getByTestId('failed')).toHaveCount(0);
  await expect(rows(page).filter({ hasText: '__proto__ x' }).first()).toBeVisible();
  await expect(page.getByTestId('count-waiting-for-you')).toContainText(String(shapes.length));
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
  await expect(page.getByTestId('last-update')).toContainText(/Just now|\d+ s ago/); // not 10 min ago
});

test('a stream that is refused falls back at once; polling needs none', async ({ page, gateway }) => {
  await refuseStreams(page);
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveText('Delayed mode (polling every 10s)');
  await expect(page.getByTestId('note')).toContainText('could not be opened');
  await gateway.emit('polled');
  await page.getByTestId('refresh').click();
  await expect(rows(page)).toHaveCount(1);
});

test('the page works below a path', async ({ page, gateway }) => {
  const proxy = await startProxy(gateway.address, { prefix: '/watch' });
  try {
    const strays: string[] = [];
    page.on('response', (response) => response.status() >= 400 && strays.push(response.url()));
    await page.goto(`${proxy.url}/watch/`);
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    await gateway.emit('first');
    await expect(rows(page)).toHaveCount(1);
    await toggle(page, 'Polling');
    await expect(badge(page)).toHaveAttribute('data-status', 'delayed');
    await expect(page.getByTestId('refresh').locator('svg')).toBeVisible();
    expect(strays).toEqual([]);
  } finally {
    await proxy.stop();
  }
});

test('a proxy that does not pass WebSockets on is named, and polling works', async ({ page, gateway }) => {
  const proxy = await startProxy(gateway.address, { upgrades: false });
  try {
    await page.goto(proxy.url);
    await expect(badge(page)).toHaveText('Delayed mode (polling every 10s)');
    await expect(page.getByTestId('note')).toContainText(
      'The live connection could not be opened. The gateway answers, but WebSockets do not reach it.'
    );
    await gateway.emit('polled');
    await page.getByTestId('refresh').click();
    await expect(rows(page)).toHaveCount(1);
    await expect(page.getByTestId('note')).toContainText('a proxy in between'); // still, when polls work
  } finally {
    await proxy.stop();
  }
});

test('a proxy that changes the Host is told apart from a connection that was lost', async ({ page, gateway }) => {
  const proxy = await startProxy(gateway.address, { host: `localhost:${gateway.address.split(':')[1]}` });
  try {
    await page.goto(proxy.url);
    await expect(page.getByTestId('note')).toContainText(`--allow-origin ${proxy.url}`);
    await expect(page.getByTestId('note')).not.toContainText('lost');
  } finally {
    await proxy.stop();
  }
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
  const copied = () => page.evaluate(() => navigator.clipboard.readText());
  await expect.poll(copied).not.toBe(''); // the browser writes it after the click
  expect(JSON.parse(await copied())).toMatchObject({
    kind: 'spec_failed',
    spec: 'login',
    data: { exit_code: 3, output: ['a', 'b'] },
  });
});

const answers = (table: Table) =>
  table.read("SELECT session, spec, data FROM events WHERE kind = 'intervention_answered' ORDER BY id");
const question = (page: Page, text: string) => page.getByTestId('question').filter({ hasText: text });

test('a question is answered by an option, by a text, or dismissed', async ({ page, gateway, table }) => {
  await table.insert('intervention_request', 'night', 'login', {
    question: 'Which port?\nThe usual one is taken.',
    options: ['8080', '9090'],
    default: '8080',
    timeout: 7200,
  });
  await table.insert('intervention_request', 'night', '', { question: 'Who reviews?' });
  await table.insert('intervention_request', 'night', 'docs', { question: 'Publish?', options: ['yes', 'no'] });
  const [port, reviewer, publish] = (await table.read('SELECT id::int FROM events ORDER BY id')).map((row) => row.id);
  await page.goto(gateway.url);
  await expect(page.getByTestId('question')).toHaveCount(3);
  await expect(question(page, 'Which port?')).toContainText('Without an answer “8080” is taken in 1 h 59 min');
  await question(page, 'Which port?').getByRole('button', { name: '9090' }).click();
  await expect(question(page, 'Which port?')).toHaveCount(0);
  await question(page, 'Who reviews?').getByRole('textbox', { name: 'Answer' }).fill('Ada & "Bob"');
  await page.keyboard.press('Enter');
  await expect(question(page, 'Who reviews?')).toHaveCount(0);
  await question(page, 'Publish?').getByRole('button', { name: 'Dismiss' }).click();
  await expect(page.getByTestId('question')).toHaveCount(0);
  expect(await answers(table)).toEqual([
    { session: 'night', spec: 'login', data: { request: port, answer: '9090' } },
    { session: 'night', spec: '', data: { request: reviewer, answer: 'Ada & "Bob"' } },
    { session: 'night', spec: 'docs', data: { request: publish, dismissed: true } },
  ]);
});

test('an answer to a gateway with a write token asks for it once', async ({ page }) => {
  const gateway = new Gateway({ SPECWATCH_WRITE_TOKEN: 'write-secret' });
  await gateway.start();
  const table = await Table.open(gateway.schema);
  try {
    await table.insert('intervention_request', 'night', 'login', { question: 'Which port?' });
    await table.insert('intervention_request', 'night', 'docs', { question: 'Publish?', options: ['yes'] });
    await page.goto(gateway.url);
    await question(page, 'Which port?').getByRole('textbox').fill('8080');
    await question(page, 'Which port?').getByRole('button', { name: 'Send' }).click();
    const token = question(page, 'Which port?').getByLabel('Write token of this gateway');
    await token.fill('wrong');
    await page.keyboard.press('Enter');
    await expect(page.getByText('this is not a token of this gateway')).toBeVisible();
    await token.fill('write-secret');
    await page.keyboard.press('Enter');
    await expect(question(page, 'Which port?')).toHaveCount(0);
    await question(page, 'Publish?').getByRole('button', { name: 'yes' }).click();
    await expect(page.getByTestId('question')).toHaveCount(0);
    // The browser keeps the right to write, as a phone that reloads the page needs.
    await table.insert('intervention_request', 'night', 'docs', { question: 'Merge?', options: ['later'] });
    await page.reload();
    await question(page, 'Merge?').getByRole('button', { name: 'later' }).click();
    await expect(page.getByTestId('question')).toHaveCount(0);
    expect((await answers(table)).map(({ data }) => data.answer)).toEqual(['8080', 'yes', 'later']);
    expect(
      await page.evaluate(
        () => JSON.stringify({ ...localStorage, ...sessionStorage }) + document.cookie + location.href
      )
    ).not.toContain('secret');
  } finally {
    await table.close();
    await gateway.stop();
  }
});

test('a running command asks, is answered on the page, goes on, and shows why it failed', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  const script = `port=$("$0" ask "Which port?" --option 8080 --option 9090) && echo "port $port is taken" >&2; exit 3`;
  const ended = gateway
    .specwatch('run', '--session', 'night', '--spec', 'login', '--', 'sh', '-c', script, resolve(executable))
    .catch((error: { code?: number }) => error.code);
  await expect(page).toHaveTitle('1 waiting - Specwatch');
  await question(page, 'Which port?').getByRole('button', { name: '9090' }).click();
  expect(await ended).toBe(3);
  await expect(page.getByTestId('question')).toHaveCount(0);
  await expect(rows(page).filter({ hasText: /exit code 3, .*port 9090 is taken/ })).toHaveCount(1);
  await expect(page).toHaveTitle('1 failed - Specwatch');
});

// recorded permits notifications and returns a function that lists their titles.
async function recorded(page: Page): Promise<() => Promise<string[]>> {
  await page.context().grantPermissions(['notifications']);
  await page.addInitScript(() => {
    const told = ((window as unknown as { told: string[] }).told = [] as string[]);
    const Real = window.Notification;
    window.Notification = class extends Real {
      constructor(title: string, options?: NotificationOptions) {
        super(title, options);
        told.push(title);
      }
    };
  });
  return () => page.evaluate(() => (window as unknown as { told: string[] }).told);
}

test('title, icon and notifications tell of each matter once', async ({ page, gateway, table }) => {
  const told = await recorded(page);
  await table.insert('timeout_triggered', 'night', 'before');
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await expect(page).toHaveTitle('1 failed - Specwatch');
  await expect(page.getByRole('button', { name: 'This browser notifies you' })).toHaveAttribute('aria-pressed', 'true');
  await table.insert('timeout_triggered', 'night', 'login', { reason: 'idle' });
  await table.insert('intervention_request', 'night', 'docs', { question: 'Publish?' });
  await expect(page).toHaveTitle('1 waiting, 2 failed - Specwatch');
  await expect.poll(async () => (await told()).sort()).toEqual(['Needs you: docs', 'Timed out: login']);
  expect(await page.locator('link[rel=icon]').getAttribute('href')).toContain('data:image/svg+xml');
  await gateway.restart();
  await table.insert('spec_started', 'night', 'after');
  await expect(rows(page).filter({ hasText: 'after' })).toBeVisible({ timeout: 60_000 });
  expect(await told()).toHaveLength(2);
  // After a reload only what is new is told.
  await page.reload();
  await expect(page).toHaveTitle('1 waiting, 2 failed - Specwatch');
  await table.insert('timeout_triggered', 'noon', 'search');
  await expect.poll(told).toEqual(['Timed out: search']);
  // What happened while the page was closed is told when it is opened.
  await page.goto('about:blank');
  await table.insert('intervention_request', 'night', 'ports', { question: 'Which port?' });
  await page.goto(gateway.url);
  await expect.poll(told).toEqual(['Needs you: ports']);
});

// started writes the start of a spec that is minutes old.
const started = (table: Table, session: string, spec: string, minutes: number) =>
  table.read(
    `INSERT INTO events (kind, session, spec, at) VALUES ('spec_started', '${session}', '${spec}', now() - interval '${minutes} minutes')`
  );

test('a hung agent, failures in a row and silence are notified, once each', async ({ page, gateway, table }) => {
  const told = await recorded(page);
  await page.goto(gateway.url);
  await expect(badge(page)).toHaveAttribute('data-status', 'live');
  await table.insert('session_heartbeat', 'night', 'docs', { silentSeconds: 725 });
  await started(table, 'night', 'docs', 25);
  await expect.poll(told).toEqual(['No output: docs']);
  for (const spec of ['one', 'two', 'three', 'four']) {
    await table.insert('spec_failed', 'night', spec, { exitCode: 1 });
  }
  await expect.poll(told).toEqual(['No output: docs', 'Failures in a row: night']);
  await started(table, 'noon', 'search', 30);
  await expect.poll(told).toEqual(['No output: docs', 'Failures in a row: night', 'Silent: noon']);
  await table.insert('spec_completed', 'night', 'five');
  await expect(rows(page).filter({ hasText: 'five' })).toBeVisible();
  expect(await told()).toHaveLength(3);
});

test('of the specs that run, the one that hangs is named', async ({ page, gateway, table }) => {
  await started(table, 'night', 'login', 30);
  await started(table, 'night', 'docs', 25);
  await table.insert('session_heartbeat', 'night', 'login', { silentSeconds: 3 });
  await table.insert('session_heartbeat', 'night', 'docs', { silentSeconds: 725 });
  await page.goto(gateway.url);
  await expect(page.getByTestId('glance')).toHaveText('Alive, but nothing has come for 12 min from docs');
  await expect(page.getByTestId('running-row').filter({ hasText: 'docs' })).toContainText('no output');
  await expect(page.getByTestId('running-row').filter({ hasText: 'login' })).not.toContainText('no output');
  await table.insert('session_heartbeat', 'night', 'docs', { silentSeconds: 1 });
  await expect(page.getByTestId('glance')).toContainText('Awake, working on login');
});

test('a limit of usage is neither failed nor idle', async ({ page, gateway, table }) => {
  const resetsAt = new Date(Date.now() + 3_600_000).toISOString();
  await started(table, 'night', 'login', 30);
  await table.insert('agent.limit', 'night', 'login', { message: 'limit reached', resetsAt });
  await table.insert('spec_failed', 'night', 'login', { reason: 'usage limit', message: 'limit reached', resetsAt });
  await page.goto(gateway.url);
  await expect(page.getByTestId('count-failed')).toContainText('0');
  await expect(page).toHaveTitle('Specwatch');
  await expect(page.getByTestId('glance')).toHaveText(/^Usage limit, resets .*\d\d:\d\d$/);
  await expect(page.getByTestId('session-row')).toHaveText(/usage limit.*resets .*\d\d:\d\d$/);
  await page.getByTestId('count-usage-limit').click();
  await expect(rows(page)).toHaveCount(1);
  await expect(rows(page)).toContainText('usage limit');
  await expect(page.getByTestId('timeline-row')).toHaveAccessibleName(/login: usage limit/);
  // Nobody says when this one is lifted.
  await table.insert('spec_started', 'night', 'login');
  await table.insert('spec_failed', 'night', 'login', { reason: 'usage limit' });
  await expect(page.getByTestId('glance')).toHaveText('Usage limit, reset time not known');
  await expect(page.getByTestId('session-row')).toHaveText(/usage limit.*reset time not known$/);
  await table.insert('spec_completed', 'night', 'docs');
  await expect(page.getByTestId('glance')).toContainText('Awake');
});

test('custom kinds are shown and filtered, and usage is summed per session and spec', async ({
  page,
  gateway,
  table,
}) => {
  await table.insert('spec_started', 'night', 'login');
  await table.insert('claude.usage', 'night', 'login', { usage: { costUsd: 0.5, inputTokens: 1_000 } });
  await table.insert('claude.usage', 'night', 'login', { usage: { costUsd: 0.25, outputTokens: 200 } });
  await table.insert('claude.usage', 'night', 'docs', { usage: { costUsd: 2 } });
  await table.insert('demo.coverage', 'night', 'docs', { lines: 81 });
  await page.goto(gateway.url);
  await expect(page.getByTestId('running-row').filter({ hasText: 'login' })).toContainText(
    '$0.75, 1K tokens in, 200 out'
  );
  await expect(page.getByTestId('session-row')).toContainText('$2.75, 1K tokens in, 200 out');
  await page.getByTestId('running-row').filter({ hasText: 'login' }).click();
  await expect(page.getByTestId('events-usage')).toHaveText('$0.75, 1K tokens in, 200 out');
  await page.getByRole('button', { name: 'Clear' }).last().click();
  await page.getByRole('search').getByText('demo.coverage').click();
  await expect(rows(page)).toHaveCount(1);
  await expect(rows(page)).toContainText('lines 81');
});

test('on a phone, what answers a question is large enough for a finger', async ({ page, gateway, table }, info) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await table.insert('intervention_request', 'night', 'login', {
    question: 'Which port?',
    options: ['8080', '9090', 'a rather long option that does not fit into one line of a phone'],
  });
  await table.insert('intervention_request', 'night', 'docs', {
    question: 'May it run npm publish?',
    elsewhere: true,
    options: ['yes', 'no'],
  });
  await page.goto(gateway.url);
  const buttons = page.getByTestId('question').locator('form button, form input, [role=group] button');
  await expect(buttons).toHaveCount(6);
  for (const button of await buttons.all()) {
    expect((await button.boundingBox())!.height).toBeGreaterThanOrEqual(44);
    expect(
      await button.evaluate((element) =>
        [element, ...element.querySelectorAll('*')].every(
          (e) => e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0
        )
      )
    ).toBe(true); // nothing is cut
  }
  await expect(question(page, 'npm publish')).toContainText('The agent takes the answer in its own terminal');
  await expect(question(page, 'npm publish')).toContainText('Options: yes, no');
  await expect(question(page, 'npm publish').getByRole('button', { name: 'Dismiss' })).toBeVisible();
  await expect(question(page, 'npm publish').getByRole('textbox')).toHaveCount(0);
  await page.screenshot({ path: info.outputPath('phone.png') });
});

test('the page can be installed', async ({ page, gateway }) => {
  await page.goto(gateway.url);
  const browser = await page.context().newCDPSession(page);
  const { errors, url } = await browser.send('Page.getAppManifest');
  expect([errors, new URL(url).pathname]).toEqual([[], '/manifest.json']);
  const manifest = await (await page.request.get(url)).json();
  for (const { src, type } of manifest.icons) {
    const icon = await page.request.get(new URL(src, url).href);
    expect([icon.status(), icon.headers()['content-type']]).toEqual([200, type]);
  }
  await expect
    .poll(() => page.evaluate(async () => Boolean(await navigator.serviceWorker.getRegistration())))
    .toBe(true);
});

test('a failed spec shows its last output', async ({ page, gateway, table }) => {
  await table.insert('spec_failed', 'night', 'login', {
    exitCode: 2,
    reason: 'exit code',
    output: `${'line\n'.repeat(300)}FAIL: port 5432 is taken\n`,
  });
  await page.goto(gateway.url);
  await expect(rows(page)).toContainText('exit code 2, FAIL: port 5432 is taken');
  await rows(page).getByRole('button').first().click();
  await expect(page.getByTestId('output')).toContainText('FAIL: port 5432 is taken');
});

test('a gateway with a read token asks for it once', async ({ page }) => {
  const gateway = new Gateway({ SPECWATCH_READ_TOKEN: 'read-secret' });
  await gateway.start();
  try {
    await page.goto(gateway.url);
    await page.getByLabel('Token of this gateway').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await expect(page.getByText('this is not a token of this gateway')).toBeVisible();
    await page.getByLabel('Token of this gateway').fill('read-secret');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    await page.reload();
    await expect(badge(page)).toHaveAttribute('data-status', 'live');
    expect(page.url()).not.toContain('secret');
  } finally {
    await gateway.stop();
  }
});

for (const [name, width, height] of [
  ['phone', 390, 844],
  ['tablet', 820, 1180],
] as const) {
  for (const scheme of ['light', 'dark'] as const) {
    test(`fits a ${name} and is accessible, ${scheme}`, async ({ page, gateway }) => {
      await page.emulateMedia({ colorScheme: scheme });
      await page.setViewportSize({ width, height });
      await gateway.emit('a spec with a rather long name that does not fit into one line of a phone');
      await gateway.specwatch(
        'emit',
        'intervention_request',
        '--session',
        'night',
        '--spec',
        'login',
        '--data',
        '{"question":"Which port?"}'
      );
      await page.goto(gateway.url);
      await expect(badge(page)).toHaveAttribute('data-status', 'live');
      const beside = () =>
        page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (name === 'phone') {
        expect(await beside()).toBe(0);
        expect(await complaints(page, 'main')).toEqual([]);
        await expect(page.getByRole('region', { name: 'List of events' })).toBeHidden();
        await part(page, 'Events');
        // The list is in sight without scrolling.
        await expect(page.getByRole('region', { name: 'List of events' })).toBeInViewport({ ratio: 1 });
      }
      await expect(rows(page)).toHaveCount(2);
      expect(await beside()).toBe(0);
      await rows(page).first().getByRole('button').first().click();
      expect(await complaints(page, 'main')).toEqual([]);
      await page.getByRole('button', { name: 'Settings' }).click();
      await expect(page.getByRole('dialog')).toBeVisible();
      expect(await complaints(page, '[role=dialog]')).toEqual([]);
    });
  }
}
