import React from 'react';

import type { Connection, View } from '../connection/connection';
import type { Mode } from '../connection/settings';
import { ago, clock, span } from './format';

interface Props {
  view: View;
  now: number;
  connection: Connection;
  openSettings(): void;
}

const modes: Array<[Mode, string]> = [
  ['websocket', 'Live'],
  ['polling', 'Polling'],
];

export function ConnectionBar({ view, now, connection, openSettings }: Props) {
  const name = React.useId();
  return (
    <header className="sw-head">
      <span className="sw-badge" role="status" data-status={view.badge} title={view.error ?? undefined}>
        <span className="sw-dot" />
        {badgeText(view, now)}
      </span>
      <fieldset className="sw-toggle" aria-label="Delivery of events" style={{ margin: 0 }}>
        {modes.map(([mode, label]) => (
          <label key={mode}>
            <input type="radio" name={name} value={mode} checked={view.mode === mode} onChange={() => connection.setMode(mode)} />
            {label}
            {view.switching && view.mode === mode && <span className="sw-spin" aria-label="switching" />}
          </label>
        ))}
      </fieldset>
      <span className="sw-facts">
        <span>{view.mode === 'websocket' ? 'push on event' : `every ${view.settings.pollingInterval} s`}</span>
        <span data-testid="last-update">{view.updatedAt === null ? 'No update yet' : `Updated: ${ago(now - view.updatedAt)}`}</span>
      </span>
      <span className="sw-space sw-bar-space" />
      <button className="sw-refresh" data-testid="refresh" onClick={() => void connection.refresh()} disabled={view.refreshing}>
        {view.refreshing ? <span className="sw-spin" /> : <span aria-hidden="true">↻</span>} Refresh
      </button>
      <button className="sw-settings" aria-label="Settings" title="Settings" onClick={openSettings}>
        <span aria-hidden="true">⚙</span>
      </button>
    </header>
  );
}

function badgeText(view: View, now: number): string {
  switch (view.badge) {
    case 'live':
      return 'Live';
    case 'delayed':
      if (view.fallback) {
        return `Delayed mode (polling every ${view.settings.pollingInterval}s)`;
      }
      return view.updatedAt === null ? 'Delayed' : `Delayed, ${span(now - view.updatedAt)} behind`;
    case 'offline':
      return view.updatedAt === null ? 'Offline' : `Offline since ${clock(view.updatedAt, now)}`;
    default:
      return 'Connecting…';
  }
}
