import { describe, expect, it } from 'vitest';

import { EventStore } from './events';
import type { SpecEvent } from './model';

const event = (id: number, data: unknown = {}, kind: SpecEvent['kind'] = 'spec_started'): SpecEvent => ({
  id,
  kind,
  at: new Date(1_700_000_000_000 + id * 1_000).toISOString(),
  session: 's',
  spec: String(id),
  data,
});
const ids = (store: EventStore) => store.list().map((e) => e.id);

describe('the store', () => {
  it('holds each event once, newest first, whichever order they come in', () => {
    const store = new EventStore();
    expect([store.add([event(2), event(1)]), store.add([event(3), event(2)])]).toEqual([2, 1]);
    expect(ids(store)).toEqual([3, 2, 1]);
  });
  it('breaks ties of time by id', () => {
    const store = new EventStore();
    store.add([
      { ...event(1), id: 7 },
      { ...event(1), id: 9 },
    ]);
    expect(ids(store)).toEqual([9, 7]);
  });
  it('holds heartbeats, and does not count them as new', () => {
    const store = new EventStore();
    expect(store.add([event(1), event(2, {}, 'session_heartbeat')])).toBe(1);
    expect(ids(store)).toEqual([2, 1]);
  });
  it('holds the newest only, and forgets an older one that comes late', () => {
    const store = new EventStore(3);
    store.add([1, 2, 3, 4, 5].map((id) => event(id)));
    expect(ids(store)).toEqual([5, 4, 3]);
    store.add([event(1)]);
    expect(ids(store)).toEqual([5, 4, 3]);
  });
  it('holds no more data than it may, and always the newest event', () => {
    const store = new EventStore(100, 1_000);
    store.add([1, 2, 3, 4].map((id) => event(id, 'x'.repeat(400))));
    expect(ids(store)).toEqual([4, 3]);
    store.add([event(5, 'x'.repeat(5_000))]);
    expect(ids(store)).toEqual([5]);
  });
  it('stays bounded while the list is not read', () => {
    const store = new EventStore(10);
    for (let id = 1; id <= 1_000; id++) {
      store.add([event(id)]);
      expect((store as unknown as { held: Map<number, unknown> }).held.size).toBeLessThanOrEqual(20);
    }
  });
  it('gives the same list until something changes', () => {
    const store = new EventStore();
    store.add([event(1)]);
    const list = store.list();
    store.add([event(1)]);
    expect(store.list()).toBe(list);
  });
});
