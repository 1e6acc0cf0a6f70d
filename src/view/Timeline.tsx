import React, { useMemo } from 'react';

import type { SpecEvent, State } from '../connection/model';
import { clock, span } from './format';

const tracks = 10;
const shortest = 60_000; // ms; a shorter axis would tell nothing

type Outcome = 'running' | 'completed' | 'failed' | 'timed out';

interface Attempt {
  from: number;
  to: number | null;
  outcome: Outcome;
}

interface Track {
  session: string;
  spec: string;
  attempts: Attempt[];
  asked: number[]; // moments of intervention requests
  last: number;
}

const fills: Record<Outcome, string> = {
  running: 'var(--run-fill)', completed: 'var(--good-fill)', failed: 'var(--bad-fill)', 'timed out': 'var(--late-fill)',
};

// attempts pairs starts with ends, oldest event first.
export function tracksOf(events: readonly SpecEvent[], state: State): Track[] {
  const found = new Map<string, Track>();
  const track = (session: string, spec: string): Track => {
    const key = JSON.stringify([session, spec]);
    const known = found.get(key) ?? { session, spec, attempts: [], asked: [], last: 0 };
    found.set(key, known);
    return known;
  };
  // Open specs may have started before the oldest event that is held.
  for (const open of state.running) {
    const from = Date.parse(open.since);
    Object.assign(track(open.session, open.spec), { attempts: [{ from, to: null, outcome: 'running' }], last: from });
  }
  for (const event of [...events].reverse()) {
    if (event.kind === 'session_heartbeat') {
      continue;
    }
    const t = track(event.session, event.spec);
    const at = Date.parse(event.at);
    const current = t.attempts.at(-1);
    t.last = Math.max(t.last, at);
    if (event.kind === 'intervention_request') {
      t.asked.push(at);
    } else if (event.kind === 'spec_started') {
      if (current && current.to === null && current.from >= at) {
        continue; // the open one, known from the state
      }
      if (current && current.to === null) {
        current.to = at;
      }
      t.attempts.push({ from: at, to: null, outcome: 'running' });
    } else if (current && current.from <= at && current.to === null) {
      current.to = at;
      current.outcome = event.kind === 'spec_completed' ? 'completed' : event.kind === 'spec_failed' ? 'failed' : 'timed out';
    }
  }
  return [...found.values()].filter((t) => t.attempts.length > 0).sort((a, b) => b.last - a.last).slice(0, tracks);
}

export function Timeline({ events, state, now }: { events: readonly SpecEvent[]; state: State; now: number }) {
  const list = useMemo(() => tracksOf(events, state), [events, state]);
  const start = Math.min(now - shortest, ...list.flatMap((t) => t.attempts.slice(-20).map((a) => a.from)));
  const at = (ms: number) => ((Math.min(Math.max(ms, start), now) - start) / (now - start)) * 1000;
  return (
    <section className="sw-card" aria-label="Timeline of specs">
      <h2>Latest specs</h2>
      {list.length === 0 && <p className="sw-soft">No spec started or ended in the events shown below.</p>}
      <div className="sw-time">
        {list.map((t) => {
          const attempt = t.attempts.at(-1)!;
          const told = `${t.spec || t.session}: ${attempt.outcome}, ${span((attempt.to ?? now) - attempt.from)}`;
          return (
            <div className="sw-track" key={`${t.session}\n${t.spec}`} title={told}>
              <span className="sw-name">{t.spec || t.session}</span>
              <svg viewBox="0 0 1000 18" preserveAspectRatio="none" role="img" aria-label={told}>
                {t.attempts.slice(-20).map((a) => (
                  <rect key={a.from} x={at(a.from)} y="2" width={Math.max(4, at(a.to ?? now) - at(a.from))} height="14" rx="2" fill={fills[a.outcome]} />
                ))}
                {t.asked.map((ms) => (
                  <rect key={ms} x={at(ms) - 2} y="0" width="5" height="18" fill="#e6b422" />
                ))}
              </svg>
            </div>
          );
        })}
      </div>
      {list.length > 0 && (
        <>
          <div className="sw-axis">
            <span>{clock(start, now)}</span>
            <span>now</span>
          </div>
          <div className="sw-legend">
            {Object.entries(fills).map(([name, fill]) => (
              <span key={name}><i style={{ background: fill }} />{name}</span>
            ))}
            <span><i style={{ background: '#e6b422' }} />needs you</span>
          </div>
        </>
      )}
    </section>
  );
}
