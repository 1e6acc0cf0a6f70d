import { useVirtualizer } from '@tanstack/react-virtual';
import React, { useRef, useState } from 'react';

import type { SpecEvent } from '../connection/model';
import { clock, kindNames, said } from './format';

export function EventList({ events, now, height }: { events: readonly SpecEvent[]; now: number; height?: number }) {
  const scroller = useRef<HTMLDivElement>(null);
  const [heartbeats, setHeartbeats] = useState(false);
  const shown = heartbeats ? events : events.filter((e) => e.kind !== 'session_heartbeat');
  const rows = useVirtualizer({
    count: shown.length,
    getScrollElement: () => scroller.current,
    getItemKey: (i) => shown[i].id,
    estimateSize: () => 36,
    overscan: 12,
  });
  return (
    <section className="sw-card" aria-label="Events">
      <div className="sw-head" style={{ marginBottom: 8 }}>
        <h2 style={{ margin: 0 }}>Events</h2>
        <span className="sw-soft" data-testid="event-count">{shown.length.toLocaleString()}</span>
        <span className="sw-space" />
        <label className="sw-soft">
          <input type="checkbox" checked={heartbeats} onChange={(e) => setHeartbeats(e.target.checked)} /> heartbeats
        </label>
      </div>
      {shown.length === 0 ? (
        <div className="sw-empty">
          <p>No event in the last five minutes. The next one appears here.</p>
          <code>specwatch run --spec hello -- echo hello</code>
        </div>
      ) : (
        <div className="sw-list" ref={scroller} tabIndex={0} role="region" aria-label="List of events" style={height ? { height } : undefined}>
          <div className="sw-rows" style={{ height: rows.getTotalSize() }}>
            {rows.getVirtualItems().map((item) => (
              <Row key={item.key} event={shown[item.index]} now={now} index={item.index} top={item.start} measure={rows.measureElement} />
            ))}
          </div>
        </div>
      )}
    </section>
  );
}

interface RowProps {
  event: SpecEvent;
  now: number;
  index: number;
  top: number;
  measure(element: Element | null): void;
}

function Row({ event, now, index, top, measure }: RowProps) {
  const text = said(event.data);
  return (
    <div className="sw-row" data-testid="event-row" data-event-id={event.id} data-index={index} ref={measure} style={{ transform: `translateY(${top}px)` }}>
      <time dateTime={event.at} title={event.at}>{clock(Date.parse(event.at), now)}</time>
      <span className={`sw-kind ${event.kind}`}>{kindNames[event.kind] ?? event.kind}</span>
      <span className="sw-what">
        {event.spec || event.session}
        {event.spec && <span className="sw-soft">{event.session}</span>}
      </span>
      {text && (
        <details>
          <summary>{text}</summary>
          <pre>{JSON.stringify(event.data, null, 2)}</pre>
        </details>
      )}
    </div>
  );
}
