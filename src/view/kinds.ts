// How each kind of event, and each state of a spec, is called and coloured,
// everywhere the same.
import type { GrafanaTheme2 } from '@grafana/data';

import type { Kind } from '../contract.gen';

export const kindNames: Record<Kind, string> = {
  spec_started: 'started',
  spec_completed: 'completed',
  spec_failed: 'failed',
  intervention_request: 'needs you',
  timeout_triggered: 'timed out',
  session_heartbeat: 'heartbeat',
};

export type Outcome = 'running' | 'completed' | 'failed' | 'timed out' | 'abandoned';

// What ends a spec, and how the spec is called then.
export const ends: Partial<Record<Kind, Outcome>> = { spec_completed: 'completed', spec_failed: 'failed', timeout_triggered: 'timed out' };

export function palette(theme: GrafanaTheme2) {
  const color = theme.visualization.getColorByName;
  const running = color(theme.isDark ? 'light-blue' : 'blue');
  const [completed, failed, timedOut, asked, quiet] = ['green', 'red', 'orange', theme.isDark ? 'yellow' : 'dark-yellow', 'gray'].map(color);
  const idle = quiet === 'gray' ? theme.colors.text.disabled : quiet;
  const kinds: Record<Kind, string> = {
    spec_started: running, spec_completed: completed, spec_failed: failed, timeout_triggered: timedOut, intervention_request: asked, session_heartbeat: idle,
  };
  const outcomes: Record<Outcome, string> = { running, completed, failed, 'timed out': timedOut, abandoned: idle };
  return { kinds, outcomes, asked, idle };
}
