import { afterEach, describe, expect, it, vi } from 'vitest';

import { complete, defaults, startMode } from './settings';

afterEach(() => vi.unstubAllGlobals());

describe('settings', () => {
  it.each([
    [undefined, {}],
    [{ pollingInterval: 4 }, { pollingInterval: 5 }],
    [{ pollingInterval: 61 }, { pollingInterval: 60 }],
    [{ pollingInterval: 7.4 }, { pollingInterval: 7 }],
    [{ pollingInterval: 'often' as unknown as number }, {}],
    [{ preferredMode: 'pigeon' as 'auto' }, {}],
    [
      { preferredMode: 'auto' as const, autoFallback: false },
      { preferredMode: 'auto', autoFallback: false },
    ],
  ])('%j', (given, expected) => {
    expect(complete(given)).toEqual({ ...defaults, ...expected });
  });

  it.each([
    [{ preferredMode: 'polling' }, undefined, 'polling'],
    [{ preferredMode: 'websocket' }, { saveData: true }, 'websocket'],
    [{ preferredMode: 'auto' }, undefined, 'websocket'],
    [{ preferredMode: 'auto' }, { effectiveType: '4g' }, 'websocket'],
    [{ preferredMode: 'auto' }, { effectiveType: '2g' }, 'polling'],
    [{ preferredMode: 'auto' }, { saveData: true }, 'polling'],
  ] as const)('%j on a link of %j begins with %s', (given, connection, mode) => {
    vi.stubGlobal('navigator', { connection });
    expect(startMode(complete(given))).toBe(mode);
  });
});
