import { expect, it } from 'vitest';

import { usualTLSMode } from './types';

it.each([
  ['localhost:5432', false, 'disable'],
  ['127.0.0.1', false, 'disable'],
  ['[::1]:5432', false, 'disable'],
  ['/var/run/postgresql', false, 'disable'],
  ['LOCALHOST', false, 'disable'],
  ['localhost:5432', true, 'verify-full'],
  ['db.example.org:5432', false, 'verify-full'],
  ['localhost.example.org', false, 'verify-full'],
  ['10.0.0.1:5432', false, 'verify-full'],
  ['', false, 'verify-full'],
])('the TLS mode of %s, with certificates %s, is %s until somebody chooses', (host, certificates, mode) => {
  expect(usualTLSMode(host, certificates)).toBe(mode);
});
