import { describe, expect, it } from 'vitest';

import { narrowed } from './filters';
import type { Query } from './types';

const query: Query = { refId: 'A', queryType: 'events' };
const all = ['kinds', 'sessions', 'specs'];
const is = (key: string, value: string, operator = '=') => ({ key, operator, value });

describe('ad-hoc filters', () => {
  it('narrow a query', () => {
    expect(narrowed(query, all)).toEqual(query);
    expect(narrowed(query, all, [is('session', 'night'), is('spec', '')])).toEqual({
      ...query,
      sessions: ['night'],
      specs: [''],
    });
    const several = { key: 'spec', operator: '=|', value: 'a', values: ['a', 'b'] };
    expect(narrowed(query, all, [several]).specs).toEqual(['a', 'b']);
  });
  it('let through what the query and all of them let through', () => {
    const asked: Query = { ...query, sessions: ['night', 'noon'], kinds: ['spec_failed', 'other' as never] };
    expect(narrowed(asked, all, [is('session', 'noon')]).sessions).toEqual(['noon']);
    expect(narrowed(asked, all, [is('session', 'dawn')]).sessions).toEqual(['']);
    expect(narrowed(query, all, [is('spec', 'a'), is('spec', 'b')]).sessions).toEqual(['']);
    expect(narrowed(asked, all, [is('kind', 'spec_started')]).sessions).toEqual(['']);
    expect(narrowed(asked, all, [is('kind', 'claude.cost')]).kinds).toEqual(['claude.cost']);
  });
  it('leave a query alone whose type has no such list', () => {
    expect(narrowed(query, ['sessions'], [is('kind', 'spec_failed')])).toEqual(query);
  });
  it.each([is('session', 'night', '!='), is('session', 'n.*', '=~'), is('color', 'red')])('refuse %o', (filter) => {
    expect(() => narrowed(query, all, [filter])).toThrow(/Specwatch cannot filter/);
  });
});
