import { css, cx, keyframes } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Button, IconButton, RadioButtonGroup, Spinner, useStyles2 } from '@grafana/ui';
import React from 'react';

import type { Connection, View } from '../connection/connection';
import type { Badge } from '../connection/machine';
import type { Mode } from '../connection/settings';
import { ago, checked, clock, span } from './format';

interface Props {
  view: View;
  now: number;
  connection: Connection;
  openSettings(): void;
}

const modes: Array<{ value: Mode; label: string; description: string }> = [
  { value: 'websocket', label: 'Live', description: 'Pushed as it happens' },
  { value: 'polling', label: 'Polling', description: 'Fetched at an interval' },
];

export function ConnectionBar({ view, now, connection, openSettings }: Props) {
  const styles = useStyles2(getStyles);
  return (
    <header className={styles.bar}>
      <StatusBadge view={view} now={now} />
      <div className={styles.toggle}>
        <RadioButtonGroup
          aria-label="Delivery of events"
          options={modes}
          value={view.mode}
          onChange={connection.choose}
        />
        {view.switching && (
          <span role="img" aria-label="Switching" data-testid="switching">
            <Spinner inline />
          </span>
        )}
      </div>
      <div className={styles.facts}>
        <span>{frequency(view)}</span>
        <span data-testid="last-update">
          Last update: {view.updatedAt === null ? 'none yet' : ago(now - view.updatedAt)}
        </span>
      </div>
      <div className={styles.actions}>
        <Button
          variant="secondary"
          icon="sync"
          data-testid="refresh"
          onClick={() => void connection.refresh()}
          disabled={view.refreshing}
        >
          Refresh
        </Button>
        <IconButton name="cog" size="lg" aria-label="Settings" tooltip="Connection settings" onClick={openSettings} />
      </div>
    </header>
  );
}

// frequency returns how often this view gets new events.
function frequency({ settings, mode, state }: View): string {
  if (settings.manualRefreshOnly) {
    return 'on Refresh only';
  }
  if (mode === 'polling') {
    return `every ${settings.pollingInterval} s`;
  }
  return state?.delivery.push === false ? checked(state.delivery) : 'push on event';
}

const words: Record<Badge, string> = {
  connecting: 'Connecting…',
  live: 'Live',
  delayed: 'Delayed',
  offline: 'Offline',
};

// StatusBadge shows in one word whether the view is current, and the age of its data
// if it is not live. Screen readers read the word when it changes, not each second.
function StatusBadge({ view, now }: { view: View; now: number }) {
  const styles = useStyles2(getStyles);
  const { badge, updatedAt } = view;
  const word =
    badge === 'delayed' && view.fallback
      ? `Delayed mode (polling every ${view.settings.pollingInterval}s)`
      : words[badge];
  let detail = '';
  if (badge === 'delayed' && !view.fallback && updatedAt !== null) {
    detail = `${span(now - updatedAt)} behind`;
  } else if (badge === 'offline' && updatedAt !== null) {
    detail = `last update ${clock(updatedAt, now)}`;
  }
  return (
    <div className={cx(styles.badge, styles[badge])} title={badge === 'live' ? undefined : (view.error ?? undefined)}>
      <span className={styles.dot} />
      <span role="status" data-status={badge}>
        {word}
      </span>
      {detail && (
        <span className={styles.detail} data-testid="badge-detail">
          {detail}
        </span>
      )}
    </div>
  );
}

const pulse = keyframes({
  '0%': { boxShadow: '0 0 0 0 currentColor' },
  '70%, 100%': { boxShadow: '0 0 0 7px transparent' },
});

function getStyles(theme: GrafanaTheme2) {
  const dot = '& > span:first-of-type';
  const yellow = theme.visualization.getColorByName('yellow');
  return {
    bar: css({ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: theme.spacing(1, 2) }),
    toggle: css({ display: 'flex', alignItems: 'center', gap: theme.spacing(1) }),
    facts: css({
      display: 'flex',
      flexWrap: 'wrap',
      gap: theme.spacing(0, 1.5),
      color: theme.colors.text.secondary,
      fontSize: theme.typography.bodySmall.fontSize,
    }),
    actions: css({ display: 'flex', alignItems: 'center', gap: theme.spacing(1), marginLeft: 'auto' }),
    badge: css({
      display: 'inline-flex',
      alignItems: 'center',
      gap: theme.spacing(1),
      minHeight: theme.spacing(4),
      padding: theme.spacing(0.25, 1.5),
      borderRadius: theme.shape.radius.pill,
      border: `1px solid ${theme.colors.border.medium}`,
      background: theme.colors.background.secondary,
      fontWeight: theme.typography.fontWeightMedium,
    }),
    dot: css({ width: 10, height: 10, borderRadius: '50%', flex: 'none' }),
    detail: css({
      fontWeight: theme.typography.fontWeightRegular,
      color: theme.colors.text.secondary,
      fontVariantNumeric: 'tabular-nums',
    }),
    live: css({
      borderColor: theme.colors.success.border,
      color: theme.colors.success.text,
      [dot]: {
        background: theme.colors.success.main,
        color: theme.colors.success.main,
        '@media (prefers-reduced-motion: no-preference)': { animation: `${pulse} 2s ease-out infinite` },
      },
    }),
    delayed: css({ borderColor: yellow, color: theme.colors.text.primary, [dot]: { background: yellow } }),
    offline: css({ color: theme.colors.text.secondary, [dot]: { background: theme.colors.text.disabled } }),
    connecting: css({
      color: theme.colors.text.secondary,
      [dot]: { background: 'transparent', border: `2px solid ${theme.colors.text.disabled}` },
    }),
  };
}
