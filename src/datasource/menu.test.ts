// @vitest-environment jsdom
import { type EventBus } from '@grafana/data';
import { type BackendSrv, setAppEvents, setBackendSrv } from '@grafana/runtime';
import { of } from 'rxjs';
import { expect, it, vi } from 'vitest';

import { totalHeader } from '../contract.gen';
import { menu } from './menu';

it('says once that a menu lists a part of the names', async () => {
  const publish = vi.fn();
  setAppEvents({ publish } as unknown as EventBus);
  const asked: unknown[] = [];
  const answer = (names: string[], total: number) =>
    setBackendSrv({
      fetch: (request: unknown) => {
        asked.push(request);
        return of({ data: names, headers: new Headers({ [totalHeader]: String(total) }) });
      },
    } as unknown as BackendSrv);

  answer(['one', 'two'], 2);
  expect(await menu('a', 'sessions')).toEqual(['one', 'two']);
  expect(publish).not.toHaveBeenCalled();

  answer(['one', 'two'], 12_345);
  expect(await menu('a', 'sessions', { search: 'o' })).toEqual(['one', 'two']);
  await menu('a', 'sessions');
  expect(publish).toHaveBeenCalledTimes(1);
  expect(publish.mock.calls[0][0].payload[0]).toBe('A menu lists 2 of 12,345 sessions');
  expect(asked[1]).toEqual({ url: '/api/datasources/uid/a/resources/sessions', params: { search: 'o' } });

  await menu('a', 'specs');
  expect(publish).toHaveBeenCalledTimes(2);
});
