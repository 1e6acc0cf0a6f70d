// How each kind of event, and each state of a spec, is called and coloured,
// everywhere the same.
import type { GrafanaTheme2 } from '@grafana/data';

import { kinds } from '../contract.gen';
import type { SpecEvent } from '../connection/model';
import { nameOf } from './text';

export const limitKind = 'agent.limit';

const names = new Map<string, string>([
  ['spec_started', 'started'],
  ['spec_completed', 'completed'],
  ['spec_failed', 'failed'],
  ['intervention_request', 'needs you'],
  ['intervention_answered', 'answered'],
  ['timeout_triggered', 'timed out'],
  ['session_heartbeat', 'heartbeat'],
  [limitKind, 'usage limit'],
]);

// shownKind tells a spec that a limit of usage ended from one that failed.
export function shownKind({ kind, data }: Pick<SpecEvent, 'kind' | 'data'>): string {
  return kind === 'spec_failed' &&
    data !== null &&
    typeof data === 'object' &&
    'reason' in data &&
    data.reason === 'usage limit'
    ? limitKind
    : kind;
}

// A custom kind is called as its writer called it.
export const kindName = (kind: string): string => names.get(kind) ?? nameOf(kind);

export const isKnown = (kind: string): boolean => (kinds as readonly string[]).includes(kind);

export type Outcome = 'running' | 'completed' | 'failed' | 'timed out' | 'usage limit' | 'abandoned' | 'silent';

// What ends a spec, and how the spec is called then.
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
