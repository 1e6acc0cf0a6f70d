import { describe, expect, it } from 'vitest';

import { type Server, steps } from './steps';

const source = { uid: 'u', name: 'Loops' };

// server answers by path; what it has no answer for it rejects.
const server = (
  sources: ReturnType<Server['sources']>,
  answers: Record<string, unknown> = {},
  liveEnabled = true
): Server => ({
  sources: () => sources,
  liveEnabled,
  get: <T>(path: string) =>
    path in answers
      ? Promise.resolve(answers[path] as T)
      : Promise.reject({ status: 400, data: { message: `no ${path}` } }),
});
const health = { '/api/datasources/uid/u/health': { status: 'OK', message: 'Connected.' } };
const status = (events: unknown[]) => ({ '/api/datasources/uid/u/resources/status?last=1': { events } });
const done = async (of: Server) => (await steps(of)).map((step) => step.done);

describe('the first steps', () => {
  it.each<[string, Server, Array<boolean | null>]>([
    ['without a data source', server([]), [false, null, null, null, null]],
    ['where the database is not reached', server([source]), [true, false, true, null, null]],
    [
      'where it is ill',
      server([source], { '/api/datasources/uid/u/health': { status: 'ERROR', message: 'no table' } }),
      [true, false, true, null, null],
    ],
    ['before the first event', server([source], { ...health, ...status([]) }), [true, true, true, false, false]],
    [
      'without Live',
      server([source], { ...health, ...status([{ session: 's' }]), '/api/dashboards/uid/specwatch': {} }, false),
      [true, true, false, true, true],
    ],
    [
      'at the end',
      server([source], { ...health, ...status([{ session: 's' }]), '/api/dashboards/uid/specwatch': {} }),
      [true, true, true, true, true],
    ],
  ])('%s', async (_, of, expected) => {
    expect(await done(of)).toEqual(expected);
  });

  it('say what is wrong, and what to do next', async () => {
    const failed = await steps(server([source]));
    expect(failed[1].says).toBe('no /api/datasources/uid/u/health');
    expect(failed[1].link?.path).toBe('/connections/datasources/edit/u');
    const empty = await steps(server([source], { ...health, ...status([]) }));
    expect(empty[3].command).toContain('specwatch run');
    expect((await steps(server([])))[0].link?.path).toContain('specwatch-events-datasource');
  });

  it('look at the default of several data sources', async () => {
    const [first] = await steps(
      server([
        { uid: 'a', name: 'A' },
        { ...source, isDefault: true },
      ])
    );
    expect(first.says).toContain('“Loops”');
    expect(first.link?.path).toContain('/u');
  });
});
