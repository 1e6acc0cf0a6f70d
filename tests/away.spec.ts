// A person pastes README's loop into a shell in tmux and leaves. A phone notifies them,
// shows why a spec failed and takes the answer to a question; the loop goes on.
import { devices } from '@playwright/test';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';

import { expect, test } from './fixtures';
import { part } from './frontends';
import { executable } from './gateway';

// The agent of README's loop: `claude -p "Implement specs/1-edit.md"`.
const agent = `#!/bin/sh
case $2 in
*edit*) exec vim -u NONE -n note ;;
*build*) for i in $(seq 30); do echo "step $i"; done; echo "FAIL: port 5432 is taken" >&2; exit 3 ;;
*ask*) port=$(specwatch ask "Which port?" --option 8080 --option 9090 --timeout 2h --default 8080); date +%s%3N >answered; echo "$port" >port ;;
*serve*) echo "serves on port $(cat port)" ;;
esac
`;

const loop = /```sh\n(for spec in [^]*?)\n```/.exec(readFileSync('README.md', 'utf8'))![1];

const missing = ['tmux', 'vim', 'bash'].filter((name) => spawnSync(name, ['--version']).status === null);

test('a loop in tmux runs on, and a phone answers its question', async ({ gateway, table, browser }) => {
  test.setTimeout(120_000);
  test.skip(missing.length > 0, `not installed: ${missing.join(', ')}`);
  const dir = mkdtempSync(join(tmpdir(), 'specwatch-away-'));
  for (const folder of ['bin', 'specs']) {
    mkdirSync(join(dir, folder));
  }
  writeFileSync(join(dir, 'bin', 'claude'), agent);
  chmodSync(join(dir, 'bin', 'claude'), 0o755);
  const specs = ['edit', 'build', 'ask', 'serve'].map((name, i) => `specs/${i + 1}-${name}.md`);
  specs.forEach((spec) => writeFileSync(join(dir, spec), ''));
  const env = {
    ...gateway.environment,
    PATH: [join(dir, 'bin'), dirname(resolve(executable)), process.env.PATH].join(delimiter),
    XDG_STATE_HOME: dir,
    PS1: 'prompt> ',
    HISTFILE: '',
  };
  const tmux = (...args: string[]) =>
    execFileSync('tmux', ['-S', join(dir, 'tmux'), '-f', '/dev/null', ...args], { env, cwd: dir, encoding: 'utf8' });
  const pane = () => tmux('capture-pane', '-p').trimEnd();

  const context = await browser.newContext({ ...devices['Pixel 7'], permissions: ['notifications'] });
  try {
    const phone = await context.newPage();
    // A phone notifies by a service worker only.
    await phone.addInitScript(() => {
      window.Notification = new Proxy(Notification, {
        construct: () => {
          throw new TypeError('Illegal constructor');
        },
      });
    });
    const told = () =>
      phone.evaluate(async () => {
        const worker = await navigator.serviceWorker.ready;
        return (await worker.getNotifications()).map(({ title, body }) => `${title}: ${body}`);
      });
    await phone.goto(gateway.url);
    await expect(phone.getByRole('status')).toHaveAttribute('data-status', 'live');

    tmux('new-session', '-d', '-x', '80', '-y', '24', 'bash', '--norc', '-i');
    await expect.poll(pane).toBe('prompt>');
    tmux('set-buffer', loop);
    tmux('paste-buffer', '-p');
    tmux('send-keys', 'Enter');
    await expect.poll(pane).toContain('~');
    tmux('send-keys', 'i', 'written in vim');
    await expect.poll(pane).toContain('written in vim');
    tmux('send-keys', 'Escape');
    tmux('send-keys', ':wq', 'Enter');

    // From here on nobody is at the terminal.
    await expect.poll(told).toEqual([`Needs you: ${specs[2]}: Which port?`]);
    await expect(phone).toHaveTitle('1 waiting, 1 failed - Specwatch');
    await phone.getByTestId('count-failed').tap();
    const failed = phone.getByTestId('event-row').filter({ hasText: 'exit code 3' });
    await failed.getByRole('button').first().click();
    await expect(failed.getByTestId('output').locator('pre')).toHaveText(
      /^step 12\n[^]*step 30\nFAIL: port 5432 is taken$/
    );
    await part(phone, 'Now');
    const tapped = Date.now();
    await phone.getByTestId('question').getByRole('button', { name: '9090' }).tap();
    await expect(phone.getByTestId('question')).toHaveCount(0);
    await expect(phone.getByTestId('count-completed')).toContainText('3');

    await expect.poll(pane).toMatch(/serves on port 9090\n(.*\n)*prompt>$/);
    const took = Number(readFileSync(join(dir, 'answered'), 'utf8')) - tapped;
    test.info().annotations.push({ type: 'from the tap to the waiting command', description: `${took} ms` });
    expect(readFileSync(join(dir, 'note'), 'utf8')).toBe('written in vim\n');
    expect(
      await table.read(
        "SELECT spec, kind FROM events WHERE kind IN ('spec_completed', 'spec_failed', 'timeout_triggered') ORDER BY at, id"
      )
    ).toEqual(specs.map((spec) => ({ spec, kind: spec.includes('build') ? 'spec_failed' : 'spec_completed' })));
    expect(await table.read('SELECT count(DISTINCT session)::int AS sessions FROM events')).toEqual([{ sessions: 1 }]);
  } finally {
    spawnSync('tmux', ['-S', join(dir, 'tmux'), 'kill-server']);
    await context.close();
    rmSync(dir, { recursive: true, force: true });
  }
});
