import React from 'react';

import type { State } from '../connection/model';
import { ago, said } from './format';

const shown = 5;

// What waits for a person comes first.
export function WaitingList({ state, now }: { state: State; now: number }) {
  if (state.waiting.length === 0) {
    return null;
  }
  const more = state.waitingTotal - Math.min(shown, state.waiting.length);
  return (
    <section className="sw-note warn" style={{ display: 'block' }} aria-label="Waiting for you">
      <h2>Waiting for you</h2>
      {state.waiting.slice(0, shown).map((w) => (
        <div className="sw-ask" key={w.id}>
          <b>{said(w.data) || 'An intervention was requested.'}</b>
          <span className="sw-soft">
            {w.spec ? `${w.spec}, ` : ''}
            {w.session}, {ago(now - Date.parse(w.at))}
          </span>
        </div>
      ))}
      {more > 0 && <p className="sw-soft">and {more} more</p>}
    </section>
  );
}
