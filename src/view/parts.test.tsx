// @vitest-environment jsdom
// Parts of the view, drawn.
import { cleanup, render, screen } from '@testing-library/react';
import React from 'react';
import { afterEach, describe, expect, it } from 'vitest';

import * as states from '../../tests/states';
import type { Connection } from '../connection/connection';
import type { SpecEvent, State } from '../connection/model';
import { firstEvents } from '../connection/transport';
import { EventList } from './EventList';
import { everything } from './filter';
import { Summary } from './Summary';
import { Timeline } from './Timeline';

afterEach(cleanup);

const now = Date.parse('2026-01-01T01:00:00Z');
const at = (minutes: number) => new Date(now + minutes * 60_000).toISOString();
const state = (part: Partial<State> = {}) => states.state(at(0), part);
const event = (id: number, session: string, part: Partial<SpecEvent> = {}): SpecEvent => ({
  id,
  kind: 'spec_started',
  at: at(-1),
  session,
  spec: 'login',
  data: {},
  ...part,
});

describe('the timeline', () => {
  const names = (events: SpecEvent[]) => {
    render(<Timeline events={events} state={state()} now={now} setFilter={() => undefined} />);
    return screen.getAllByTestId('timeline-row').map((row) => row.textContent);
  };

  it('names the spec alone where there is one session', () => {
    expect(names([event(2, 'night', { spec: 'docs' }), event(1, 'night', { at: at(-2) })])).toEqual(['docs', 'login']);
  });

  it('names the session too where there are several', () => {
    expect(names([event(2, 'night'), event(1, 'day\nlight', { at: at(-2) })])).toEqual([
      'login night',
      'login day␊light',
    ]);
    expect(screen.getAllByRole('button', { name: /^login, night: silent/ })).toHaveLength(1);
  });
});

describe('what is cut', () => {
  it('the list of sessions', () => {
    const sessions = Array.from({ length: 100 }, (_, i) => states.session(`s${i}`, at(-5)));
    const draw = (sessionsTotal: number) => (
      <Summary
        state={state({ sessions, sessionsTotal })}
        now={now}
        asOf={null}
        filter={everything}
        setFilter={() => undefined}
        connection={{} as Connection}
      />
    );
    const { rerender } = render(draw(100));
    expect(screen.getByText('and 95 more')).toBeTruthy();
    rerender(draw(8213)); // a state lists no more than 100
    expect(screen.getByText('and 8,208 more')).toBeTruthy();
  });

  it('the list of events', () => {
    const count = (held: number, part = {}) => {
      cleanup();
      const events = Array.from({ length: held }, (_, i) => event(held - i, i % 2 ? 'night' : 'day'));
      render(
        <EventList
          events={events}
          state={state()}
          now={now}
          filter={{ ...everything, ...part }}
          setFilter={() => undefined}
        />
      );
      return screen.getByTestId('event-count').textContent;
    };
    expect(count(10)).toBe('10');
    expect(count(10, { session: 'night' })).toBe('5');
    expect(count(firstEvents)).toBe('2,000 of the newest 2,000');
    expect(count(firstEvents, { session: 'night' })).toBe('1,000 of the newest 2,000');
  });
});
