// @vitest-environment jsdom
import type { DataSourceSettings } from '@grafana/data';
import { cleanup, render, screen } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import React, { useState } from 'react';
import { afterEach, expect, it } from 'vitest';

import { ConfigEditor } from './ConfigEditor';
import type { SecureSettings, SourceSettings } from './types';

type Options = DataSourceSettings<SourceSettings, SecureSettings>;

afterEach(cleanup);

// open shows the form and returns what it holds now.
function open(part: Partial<Options> = {}): () => Options {
  let now = { url: '', user: '', jsonData: {}, secureJsonFields: {}, ...part } as Options;
  function Form() {
    const [options, setOptions] = useState(now);
    now = options;
    return <ConfigEditor options={options} onOptionsChange={setOptions} />;
  }
  render(<Form />);
  return () => now;
}

const field = (id: string) => document.getElementById(`specwatch-${id}`) as HTMLInputElement;

it('writes each field where the backend reads it', async () => {
  const now = open();
  await userEvent.type(field('host'), 'db.example:5432');
  await userEvent.type(field('database'), 'work');
  await userEvent.type(field('schema'), 'loops');
  await userEvent.type(field('user'), 'reader');
  await userEvent.type(field('password'), 'hunter2');
  expect(now()).toMatchObject({
    url: 'db.example:5432',
    user: 'reader',
    jsonData: { database: 'work', schema: 'loops' },
    secureJsonData: { password: 'hunter2' },
  });
});

it('keeps the other fields when one changes', async () => {
  const now = open({ url: 'db:1', user: 'u', jsonData: { database: 'a', schema: 's', sslmode: 'require' } });
  await userEvent.type(field('database'), 'b');
  expect(now()).toMatchObject({
    url: 'db:1',
    user: 'u',
    jsonData: { database: 'ab', schema: 's', sslmode: 'require' },
  });
});

it('does not show a saved password, and can reset it', async () => {
  const now = open({ secureJsonFields: { password: true } });
  expect(field('password').disabled).toBe(true);
  expect(field('password').value).not.toContain('hunter2');
  await userEvent.click(screen.getByText('Reset'));
  expect(now().secureJsonFields.password).toBe(false);
  expect(field('password').disabled).toBe(false);
});

it.each([
  ['localhost:5432', false],
  ['127.0.0.1', false],
  ['/var/run/postgresql', false],
  ['db.example', true],
])('%s: asks for certificates: %s', (url, asks) => {
  open({ url });
  expect(field('tlsCACert') !== null).toBe(asks);
});

it('the chosen TLS mode wins over the usual one', () => {
  open({ url: 'localhost', jsonData: { sslmode: 'verify-ca' } });
  expect(field('tlsCACert')).not.toBeNull();
});
