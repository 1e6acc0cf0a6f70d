// Names and colours of the kinds of events and of the outcomes of specs.
import type { GrafanaTheme2 } from '@grafana/data';

import { type Kind, kinds } from '../contract.gen';
import type { SpecEvent } from '../connection/model';
import { nameOf } from './text';

export const limitKind = 'agent.limit';

const called: Record<Kind | typeof limitKind, string> = {
  spec_started: 'started',
  spec_completed: 'completed',
  spec_failed: 'failed',
  intervention_request: 'needs you',
  intervention_answered: 'answered',
  timeout_triggered: 'timed out',
  session_heartbeat: 'heartbeat',
  [limitKind]: 'usage limit',
};
// A custom kind may have any name, such as one that each object inherits.
const names = new Map<string, string>(Object.entries(called));

// shownKind returns the kind of an event; for a spec that a usage limit ended, limitKind.
export function shownKind({ kind, data }: Pick<SpecEvent, 'kind' | 'data'>): string {
  return kind === 'spec_failed' &&
    data !== null &&
    typeof data === 'object' &&
    'reason' in data &&
    data.reason === 'usage limit'
    ? limitKind
    : kind;
}

// kindName returns the name of a kind; the name of a custom kind is the kind itself.
export const kindName = (kind: string): string => names.get(kind) ?? nameOf(kind);

export const isKnown = (kind: string): boolean => (kinds as readonly string[]).includes(kind);

export type Outcome = 'running' | 'completed' | 'failed' | 'timed out' | 'usage limit' | 'abandoned' | 'silent';

// The kinds that end a spec, and the outcome of the spec then.
export const ends = new Map<string, Outcome>([
  ['spec_completed', 'completed'],
  ['spec_failed', 'failed'],
  ['timeout_triggered', 'timed out'],
  [limitKind, 'usage limit'],
]);

export function palette(theme: GrafanaTheme2) {
  const color = theme.visualization.getColorByName;
  const running = color('blue');
  const [completed, failed, timedOut, asked, quiet] = [
    'green',
    'red',
    'orange',
    theme.isDark ? 'yellow' : 'dark-yellow',
    'gray',
  ].map(color);
  const [limited, silent] = ['purple', 'dark-blue'].map(color);
  const idle = quiet === 'gray' ? theme.colors.text.disabled : quiet;
  const colors = new Map<string, string>([
    ['spec_started', running],
    ['spec_completed', completed],
    ['spec_failed', failed],
    ['timeout_triggered', timedOut],
    [limitKind, limited],
    ['intervention_request', asked],
    ['intervention_answered', '#6ED0E0'],
  ]);
  const outcomes: Record<Outcome, string> = {
    running,
    completed,
    failed,
    'timed out': timedOut,
    'usage limit': limited,
    abandoned: idle,
    silent,
  };
  return { kind: (kind: string) => colors.get(kind) ?? idle, outcomes, asked };
}
