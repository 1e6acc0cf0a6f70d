import React from 'react';

import type { SessionState, SessionStatus, State } from '../connection/model';
import { span } from './format';

// As pkg/state: a session is running for a minute after its last sign of life.
const awake = 60_000; // ms

// statusAt lets a status grow old between two answers of the database.
function statusAt(s: SessionState, now: number): SessionStatus {
  if (now - Date.parse(s.lastSeen) <= awake) {
    return 'running';
  }
  return s.specs.open > 0 || s.waiting > 0 ? 'sleeping' : 'done';
}

export function Summary({ state, now }: { state: State; now: number }) {
  const { open, completed, failed, timedOut } = state.specs;
  const tiles: Array<[number, string, string]> = [
    [open, 'open', 'var(--run)'],
    [completed, 'completed', 'var(--good)'],
    [failed, 'failed', 'var(--bad)'],
    [timedOut, 'timed out', 'var(--late)'],
  ];
  const parts: Array<[number, string]> = [
    [completed, 'var(--good-fill)'],
    [failed, 'var(--bad-fill)'],
    [timedOut, 'var(--late-fill)'],
    [open, 'var(--run-fill)'],
  ];
  return (
    <section className="sw-card" aria-label="Summary of the last seven days">
      <h2>Specs, last 7 days</h2>
      <div className="sw-tiles">
        {tiles.map(([n, label, color]) => (
          <div className="sw-tile" key={label} data-testid={`count-${label.replace(' ', '-')}`}>
            <b style={{ color }}>{n.toLocaleString()}</b>
            <span>{label}</span>
          </div>
        ))}
      </div>
      <div className="sw-bar" role="img" aria-label={`${completed} completed, ${failed} failed, ${timedOut} timed out, ${open} open`}>
        {parts.map(([n, color]) => n > 0 && <span key={color} style={{ flex: n, background: color }} />)}
      </div>
      <h2 style={{ marginTop: 14 }}>Sessions</h2>
      {state.sessions.length === 0 && <p className="sw-soft">No session in the last seven days.</p>}
      <div className="sw-sessions" tabIndex={state.sessions.length > 4 ? 0 : undefined} role={state.sessions.length > 4 ? 'region' : undefined} aria-label="Sessions">
        {state.sessions.map((s) => {
          const status = statusAt(s, now);
          const heard = s.lastHeartbeat ? `heartbeat ${span(now - Date.parse(s.lastHeartbeat))} ago` : `heard ${span(now - Date.parse(s.lastSeen))} ago`;
          return (
            <div className="sw-session" key={s.session} data-testid="session-row">
              <span className={`sw-chip ${status}`}>{status}</span>
              <span className="sw-name" title={s.session}>{s.session}</span>
              <span className="sw-soft">{heard}</span>
            </div>
          );
        })}
      </div>
    </section>
  );
}
