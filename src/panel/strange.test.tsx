// @vitest-environment jsdom
// The panel in a simulated Grafana works with any content of events, and with errors
// in some of its parts.
import {
  FieldType,
  getDefaultTimeRange,
  LiveChannelConnectionState,
  type LiveChannelEvent,
  LiveChannelEventType,
  LoadingState,
  type PanelProps,
} from '@grafana/data';
import {
  type BackendSrv,
  config,
  type GrafanaLiveSrv,
  setBackendSrv,
  setGrafanaLiveSrv,
  setTemplateSrv,
  type TemplateSrv,
} from '@grafana/runtime';
import { cleanup, configure, fireEvent, render, screen, waitFor } from '@testing-library/react';
import fc from 'fast-check';
import React from 'react';
import { of, Subject } from 'rxjs';
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest';

import type { SpecEvent } from '../connection/model';
import { defaults } from '../connection/settings';
import * as strange from '../../tests/strange';
import { type Options, SpecwatchPanel } from './SpecwatchPanel';

configure({ asyncUtilTimeout: 20_000 }); // a busy machine takes long to draw the largest events

// Script takes the place of the data source's backend and of Grafana Live.
class Script {
  private channel = new Subject<LiveChannelEvent<unknown>>();
  private batches: SpecEvent[][] = [];
  private state = strange.empty();

  attach(): void {
    config.liveEnabled = true;
    setTemplateSrv({ replace: (text) => text } as TemplateSrv); // a dashboard without variables
    setGrafanaLiveSrv({ getStream: () => this.channel } as unknown as GrafanaLiveSrv);
    setBackendSrv({
      fetch: ({ url, params }: { url: string; params?: { since?: string } }) => {
        if (url.endsWith('/status')) {
          return of({ data: this.answer(Number(params?.since ?? 0)) });
        }
        if (url.endsWith('/answer')) {
          return of({ data: { allowed: true } });
        }
        throw new Error(`a request that this test does not know: ${url}`);
      },
    } as unknown as BackendSrv);
  }

  private answer(since: number) {
    return {
      events: this.batches.slice(since).flat(),
      cursor: String(this.batches.length),
      more: false,
      timestamp: new Date().toISOString(),
      mode: 'polling',
      state: this.state,
    };
  }

  async open(): Promise<void> {
    await waitFor(() => expect(this.channel.observed).toBe(true));
    this.channel.next({
      type: LiveChannelEventType.Status,
      id: 'events',
      timestamp: 0,
      state: LiveChannelConnectionState.Connected,
      message: this.frame(this.batches.length, []),
    });
  }

  // keep stores events without a message of the stream.
  keep(events: SpecEvent[], state = this.state): void {
    this.state = state;
    this.batches.push(events);
  }

  // push sends the events that were stored last by the stream.
  push(events: SpecEvent[], state = this.state): void {
    this.keep(events, state);
    this.channel.next({
      type: LiveChannelEventType.Message,
      message: this.frame(this.batches.length - 1, events),
    });
  }

  private frame(from: number, events: SpecEvent[]) {
    return {
      schema: {
        meta: { custom: { from: String(from), cursor: String(this.batches.length), state: this.state } },
        fields: ['time', 'kind', 'session', 'spec', 'data', 'id'].map((name) => ({ name, type: FieldType.other })),
      },
      data: {
        values: [
          events.map((e) => Date.parse(e.at)),
          events.map((e) => e.kind),
          events.map((e) => e.session),
          events.map((e) => e.spec),
          events.map((e) => e.data),
          events.map((e) => e.id),
        ],
      },
    };
  }
}

let faults: unknown[] = [];
const note = (event: ErrorEvent) => faults.push(event.error);

beforeEach(() => {
  // jsdom has no layout, and without heights no row is drawn.
  vi.spyOn(Element.prototype, 'clientHeight', 'get').mockReturnValue(600);
  vi.spyOn(HTMLElement.prototype, 'offsetHeight', 'get').mockReturnValue(36);
  faults = [];
  window.addEventListener('error', note);
});
afterEach(() => {
  cleanup();
  window.removeEventListener('error', note);
  vi.restoreAllMocks();
});

async function openPanel(): Promise<Script> {
  const script = new Script();
  script.attach();
  const data = {
    series: [],
    state: LoadingState.Done,
    timeRange: getDefaultTimeRange(),
    request: { targets: [{ refId: 'A', datasource: { type: 'specwatch-events-datasource', uid: 'u' } }] },
  };
  const options: Options = { ...defaults, driveDashboard: false };
  render(<SpecwatchPanel {...({ data, options, height: 600 } as unknown as PanelProps<Options>)} />);
  await script.open();
  await waitFor(() => expect(badge()).toBe('live'));
  return script;
}

// Searches by role are slow in jsdom, and the loop below makes many.
const all = (selector: string) => [...document.querySelectorAll<HTMLElement>(selector)];
const badge = () => all('[role=status]')[0].dataset.status;
const failed = () => all('[data-testid=failed]').map((part) => part.textContent);
const rows = () => all('[data-testid=event-row]');
const shown = (text: string) =>
  waitFor(() => expect(rows().filter((row) => row.textContent!.includes(text))).toHaveLength(1));

it('no event blanks the panel, whatever it holds', { timeout: 240_000 }, async () => {
  const script = await openPanel();
  let id = 0;
  let runs = 0;
  const prototype = ['intervention_request', 'spec_failed', 'session_heartbeat', 'claude.cost'].map((kind) => ({
    kind: kind as SpecEvent['kind'],
    at: '2026-01-01T00:00:00.000000000Z',
    session: '__proto__',
    spec: '__proto__',
    data: JSON.parse('{"__proto__":"x"}') as unknown,
  }));
  await fc.assert(
    fc.asyncProperty(fc.array(strange.event, { minLength: 1, maxLength: 8 }), strange.state, async (list, state) => {
      const events = list.map((e) => ({ ...e, id: ++id }));
      const marker = `marker ${++id}`;
      if (runs++ % 2 === 0) {
        script.push(events, state);
      } else {
        script.keep(events, state);
      }
      // Events without a message of the stream are polled.
      script.keep([strange.told(id, { spec: marker, at: strange.topmost })], state);
      script.push([], state);
      await shown(marker);
      fireEvent.click(rows()[1].querySelector('button')!);
      expect(rows()[1].querySelector('[aria-expanded=true]')).toBeTruthy();
      expect(faults).toEqual([]);
      expect(failed()).toEqual([]);
      expect(screen.getByTestId('glance').textContent).not.toMatch(strange.notCounted);
      expect(badge()).toBe('live');
    }),
    {
      numRuns: 20,
      endOnFailure: true,
      interruptAfterTimeLimit: 20_000,
      examples: [
        [prototype, strange.empty()],
        [prototype, { ...strange.empty(), waiting: [{ ...prototype[0], id: 1 }], waitingTotal: 1 }],
      ],
    }
  );
  expect(runs).toBeGreaterThan(1);
});

it('a part of the panel that fails says so, the rest works, and it comes back with the next data', async () => {
  vi.spyOn(console, 'error').mockImplementation(() => undefined); // React prints each error that it catches
  // The panel's own code fails where it prints the year 2001.
  const whole = Object.getOwnPropertyDescriptor(Intl.DateTimeFormat.prototype, 'format')!;
  onTestFinished(() => void Object.defineProperty(Intl.DateTimeFormat.prototype, 'format', whole));
  let broken = true;
  Object.defineProperty(Intl.DateTimeFormat.prototype, 'format', {
    ...whole,
    get(this: Intl.DateTimeFormat) {
      const print = whole.get!.call(this) as (at: Date) => string;
      return (at: Date) => {
        if (broken && new Date(at).getFullYear() === 2001) {
          throw new Error('a fault made for this test');
        }
        return print(at);
      };
    },
  });
  const script = await openPanel();
  script.push([strange.told(1), strange.told(2, { at: '2001-01-01T00:00:00Z' })]);
  await shown('spec 1');
  await shown('Event 2 cannot be shown');
  script.push([
    strange.told(3, { kind: 'spec_started', at: '2001-01-01T00:00:00Z' }),
    strange.told(4, { kind: 'spec_completed', spec: 'spec 3' }),
  ]);
  await waitFor(() =>
    expect(failed()).toContainEqual(
      expect.stringMatching(/^The timeline cannot be shown, by a fault in Specwatch: a fault made for this test\./)
    )
  );
  expect(badge()).toBe('live');
  expect(screen.getByTestId('glance')).toBeTruthy();
  script.push([strange.told(5)]);
  await shown('spec 5');
  fireEvent.click(screen.getByRole('button', { name: 'Connection settings' }));
  expect(await screen.findByRole('dialog')).toBeTruthy();
  broken = false;
  script.push([strange.told(6)]);
  await waitFor(() => expect(failed()).toEqual([]));
  expect(screen.getByTestId('timeline-row')).toBeTruthy();
});
