// Specs as bars over time.
import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { RadioButtonGroup, useStyles2, useTheme2 } from '@grafana/ui';
import React, { useMemo, useState } from 'react';

import type { SpecEvent, State } from '../connection/model';
import { type Track, tracksOf } from './attempts';
import { type Filter, everything } from './filter';
import { clock, span } from './format';
import { type Outcome, palette } from './kinds';
import { heading, soft } from './styles';
import { nameOf } from './text';

const tracks = 12;
const shortest = 60_000; // ms
const hour = 3_600_000;
const nameWidth = '64px, 24%'; // least, most; the axis begins where names end

const windows = [
  { value: 0, label: 'All' },
  { value: 12 * hour, label: '12 h' },
  { value: 3 * hour, label: '3 h' },
  { value: hour / 2, label: '30 min' },
];

interface Props {
  events: readonly SpecEvent[];
  state: State;
  now: number;
  setFilter(filter: Filter): void;
}

export function Timeline({ events, state, now, setFilter }: Props) {
  const styles = useStyles2(getTimelineStyles);
  const colors = palette(useTheme2());
  const [width, setWidth] = useState(0); // ms back from now; 0: all
  const all = useMemo(() => tracksOf(events, state), [events, state]);
  const several = new Set(all.map((t) => t.session)).size > 1;
  const list = all.filter((t) => width === 0 || (t.attempts.at(-1)!.to ?? now) > now - width).slice(0, tracks);
  const first = Math.min(...list.flatMap((t) => t.attempts.map((a) => a.from)));
  const start = width > 0 ? now - width : Math.min(now - shortest, first);
  const at = (ms: number) => ((Math.min(Math.max(ms, start), now) - start) / (now - start)) * 100;
  return (
    <section className={styles.timeline} aria-label="Timeline of specs">
      <Head width={width} setWidth={setWidth} />
      {list.length === 0 ? (
        <p className={styles.soft}>
          {all.length > 0 ? 'No spec ran in this span.' : 'No spec has started or ended yet.'}
        </p>
      ) : (
        <>
          <div className={styles.tracks}>
            {list.map((t) => (
              <Row
                key={JSON.stringify([t.session, t.spec])}
                track={t}
                several={several}
                start={start}
                now={now}
                at={at}
                colors={colors}
                setFilter={setFilter}
              />
            ))}
          </div>
          <Axis start={start} now={now} />
          <Legend colors={colors} shown={list.length} total={all.length} />
        </>
      )}
    </section>
  );
}

function getTimelineStyles(theme: GrafanaTheme2) {
  return {
    timeline: css({ minWidth: 0, '& p': { margin: 0 } }),
    tracks: css({ display: 'grid', gap: 2 }),
    soft: soft(theme),
  };
}

function Head({ width, setWidth }: { width: number; setWidth(width: number): void }) {
  const styles = useStyles2(getHeadStyles);
  return (
    <div className={styles.head}>
      <h2>Timeline</h2>
      <RadioButtonGroup
        aria-label="Span of the timeline"
        size="sm"
        options={windows}
        value={width}
        onChange={setWidth}
      />
    </div>
  );
}

function getHeadStyles(theme: GrafanaTheme2) {
  return {
    head: css({
      display: 'flex',
      flexWrap: 'wrap',
      justifyContent: 'space-between',
      alignItems: 'center',
      gap: theme.spacing(1),
      marginBottom: theme.spacing(0.5),
      '& h2': heading(theme),
    }),
  };
}

interface Colors {
  outcomes: Record<Outcome, string>;
  asked: string;
}

interface RowProps {
  track: Track;
  several: boolean; // there are several sessions: the name of the spec is not enough
  start: number;
  now: number;
  at(ms: number): number; // percent
  colors: Colors;
  setFilter(filter: Filter): void;
}

function Row({ track, several, start, now, at, colors, setFilter }: RowProps) {
  const styles = useStyles2(getRowStyles);
  const latest = track.attempts.at(-1)!;
  const name = nameOf(track.spec || track.session);
  const session = several && track.spec ? nameOf(track.session) : '';
  const label = `${name}${session && `, ${session}`}: ${latest.outcome}, ${span((latest.to ?? now) - latest.from)}`;
  return (
    <button
      type="button"
      className={styles.row}
      title={`${label}. Show its events`}
      aria-label={label}
      data-testid="timeline-row"
      onClick={() => setFilter({ ...everything, session: track.session, spec: track.spec })}
    >
      <span className={styles.name}>
        {name}
        {session && <span className={styles.soft}> {session}</span>}
      </span>
      <Lane track={track} start={start} now={now} at={at} colors={colors} />
    </button>
  );
}

function getRowStyles(theme: GrafanaTheme2) {
  return {
    row: css({
      all: 'unset',
      boxSizing: 'border-box',
      cursor: 'pointer',
      display: 'grid',
      gridTemplateColumns: `minmax(${nameWidth}) minmax(0, 1fr)`,
      gap: theme.spacing(1),
      alignItems: 'center',
      fontSize: theme.typography.bodySmall.fontSize,
      '&:hover': { background: theme.colors.action.hover },
      '&:focus-visible': { outline: `2px solid ${theme.colors.primary.border}` },
    }),
    name: css({ overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }),
    soft: soft(theme),
  };
}

function Lane({ track, start, now, at, colors }: Omit<RowProps, 'several' | 'setFilter'>) {
  const styles = useStyles2(getLaneStyles);
  return (
    <span className={styles.lane}>
      {track.attempts
        .filter((a) => (a.to ?? now) >= start)
        .slice(-40)
        .map((a, i) => (
          <i
            key={i}
            data-outcome={a.outcome}
            style={{
              left: `${at(a.from)}%`,
              width: `max(3px, ${at(a.to ?? now) - at(a.from)}%)`,
              background: colors.outcomes[a.outcome],
            }}
          />
        ))}
      {track.asked
        .filter((ms) => ms >= start)
        .slice(-40)
        .map((ms, i) => (
          <i
            key={`asked ${i}`}
            data-outcome="asked"
            style={{ left: `calc(${at(ms)}% - 5px)`, background: colors.asked }}
          />
        ))}
    </span>
  );
}

function getLaneStyles(theme: GrafanaTheme2) {
  return {
    lane: css({
      position: 'relative',
      height: 18,
      background: theme.colors.background.secondary,
      borderRadius: 2,
      overflow: 'hidden',
      '& i': { position: 'absolute', top: 2, bottom: 2, borderRadius: 2, opacity: 0.9 },
      '& i[data-outcome=asked]': {
        width: 10,
        top: 4,
        bottom: 4,
        borderRadius: '50%',
        opacity: 1,
        border: `2px solid ${theme.colors.background.primary}`,
      },
      '& i[data-outcome=running]': {
        borderTopRightRadius: 0,
        borderBottomRightRadius: 0,
        borderRight: `2px solid ${theme.colors.text.maxContrast}`,
      },
    }),
  };
}

function Axis({ start, now }: { start: number; now: number }) {
  const styles = useStyles2(getAxisStyles);
  return (
    <div className={styles.axis} aria-hidden="true">
      {[0, 1 / 3, 2 / 3].map((part) => (
        <span key={part} style={{ left: `${part * 100}%` }}>
          {clock(start + (now - start) * part, now)}
        </span>
      ))}
      <span style={{ right: 0 }}>now</span>
    </div>
  );
}

function getAxisStyles(theme: GrafanaTheme2) {
  return {
    axis: css({
      position: 'relative',
      height: 18,
      marginLeft: `calc(max(${nameWidth}) + ${theme.spacing(1)})`,
      color: theme.colors.text.secondary,
      fontSize: theme.typography.bodySmall.fontSize,
      '& span': { position: 'absolute', top: 2, whiteSpace: 'nowrap' },
    }),
  };
}

function Legend({ colors, shown, total }: { colors: Colors; shown: number; total: number }) {
  const styles = useStyles2(getLegendStyles);
  return (
    <div className={styles.legend} aria-hidden="true">
      {Object.entries(colors.outcomes).map(([name, color]) => (
        <span key={name}>
          <i style={{ background: color }} />
          {name}
        </span>
      ))}
      <span>
        <i style={{ background: colors.asked, borderRadius: '50%' }} />
        needs you
      </span>
      {total > shown && (
        <span>
          the latest {shown} of {total.toLocaleString()} specs
        </span>
      )}
    </div>
  );
}

function getLegendStyles(theme: GrafanaTheme2) {
  return {
    legend: css({
      display: 'flex',
      flexWrap: 'wrap',
      gap: theme.spacing(0, 1.5),
      color: theme.colors.text.secondary,
      fontSize: theme.typography.bodySmall.fontSize,
      '& i': {
        display: 'inline-block',
        width: 10,
        height: 10,
        borderRadius: 2,
        marginRight: theme.spacing(0.5),
        verticalAlign: -1,
      },
    }),
  };
}
