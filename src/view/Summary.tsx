// Summary: whether sessions run, which specs run and for how long, how specs ended,
// and which requests wait for an answer.
import { css, cx } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Icon, type IconName, useStyles2, useTheme2 } from '@grafana/ui';
import React from 'react';

import type { Connection } from '../connection/connection';
import type { Open, Session, SessionStatus, State } from '../connection/model';
import { Boundary } from './Boundary';
import { type Filter, everything } from './filter';
import { ago, clock, lifted, span, used } from './format';
import { type Mood, glance, idleFor, idleIn, isLimited, limitOf, statusAt } from './glance';
import { limitKind, palette } from './kinds';
import { heading, narrow, soft } from './styles';
import { Questions } from './Questions';
import { brief, nameOf } from './text';

const listed = 5; // rows of each list; the event list has the rest

interface Props {
  state: State;
  now: number;
  filter: Filter;
  setFilter(filter: Filter): void;
}

// asOf is when the data were last current, by this device's clock; null: they are
// current.
export function Summary({
  state,
  now,
  asOf,
  filter,
  setFilter,
  connection,
}: Props & { asOf: number | null; connection: Connection }) {
  const styles = useStyles2(getSummaryStyles);
  return (
    <section className={styles.summary} aria-label="Summary">
      <Boundary what="The summary" retry={state}>
        <Glance state={state} now={now} asOf={asOf} />
      </Boundary>
      <Boundary what="The counts" retry={state}>
        <Figures state={state} filter={filter} setFilter={setFilter} />
      </Boundary>
      <Boundary what="The list of requests" retry={state}>
        <Questions
          state={state}
          now={now}
          connection={connection}
          showEvents={(session, spec) => setFilter({ ...everything, session, spec: spec || null })}
        />
      </Boundary>
      <div className={styles.columns}>
        <Boundary what="The list of running specs" retry={state}>
          <Running state={state} now={now} setFilter={setFilter} />
        </Boundary>
        <Boundary what="The list of sessions" retry={state}>
          <Sessions state={state} now={now} filter={filter} setFilter={setFilter} />
        </Boundary>
      </div>
    </section>
  );
}

function getSummaryStyles(theme: GrafanaTheme2) {
  return {
    summary: css({
      display: 'grid',
      gap: theme.spacing(1.5),
      gridTemplateColumns: 'minmax(0, 1fr)',
      '& h2': { ...heading(theme), margin: theme.spacing(0, 0, 0.5) },
      '& p': { margin: 0 },
    }),
    columns: css({
      display: 'grid',
      gap: theme.spacing(1.5, 3),
      gridTemplateColumns: 'repeat(2, minmax(0, 1fr))',
      [narrow]: { gridTemplateColumns: 'minmax(0, 1fr)' },
    }),
  };
}

const icons: Record<Mood, IconName> = {
  awake: 'heart',
  hung: 'exclamation-triangle',
  limited: 'clock-nine',
  asleep: 'exclamation-triangle',
  done: 'check-circle',
  none: 'info-circle',
};

function Glance({ state, now, asOf }: { state: State; now: number; asOf: number | null }) {
  const styles = useStyles2(getGlanceStyles);
  const { mood, headline, detail } = glance(state, now);
  return (
    <p className={styles.glance} data-testid="glance" data-mood={mood}>
      <Icon name={icons[mood]} size="xl" />
      <span>
        {asOf !== null && `At ${clock(asOf)}: `}
        <strong>{headline}</strong>, {detail}
      </span>
    </p>
  );
}

function getGlanceStyles(theme: GrafanaTheme2) {
  return {
    glance: css({
      display: 'flex',
      alignItems: 'center',
      gap: theme.spacing(1.5),
      fontSize: theme.typography.h4.fontSize,
      lineHeight: 1.3,
      '& > span': { minWidth: 0, overflowWrap: 'anywhere' },
      '& svg': { color: theme.colors.text.secondary },
      '&[data-mood=awake] svg': { color: theme.colors.success.text },
      '&[data-mood=asleep] svg, &[data-mood=hung] svg, &[data-mood=limited] svg': { color: theme.colors.warning.text },
    }),
  };
}

function Figures({ state, filter, setFilter }: Omit<Props, 'now'>) {
  const styles = useStyles2(getFigureStyles);
  const color = palette(useTheme2()).kind;
  const { open, completed, failed, timedOut, limited } = state.specs;
  const figures: Array<{ n: number; label: string; kind: string }> = [
    { n: open, label: 'running', kind: 'spec_started' },
    { n: completed, label: 'completed', kind: 'spec_completed' },
    { n: failed, label: 'failed', kind: 'spec_failed' },
    { n: timedOut, label: 'timed out', kind: 'timeout_triggered' },
    { n: state.waitingTotal, label: 'waiting for you', kind: 'intervention_request' },
    ...(limited > 0 ? [{ n: limited, label: 'usage limit', kind: limitKind }] : []),
  ];
  const ended = completed + failed + timedOut + open + limited;
  return (
    <>
      <div className={styles.figures}>
        {figures.map(({ n, label, kind }) => {
          const target: Filter = { ...everything, kinds: [kind], latest: true };
          const chosen = JSON.stringify(target) === JSON.stringify(filter);
          return (
            <button
              key={label}
              type="button"
              className={styles.figure}
              data-testid={`count-${label.replaceAll(' ', '-')}`}
              aria-pressed={chosen}
              title={chosen ? 'Show all events' : 'Show these events'}
              onClick={() => setFilter(chosen ? everything : target)}
            >
              <b>{n.toLocaleString()}</b>
              <span>
                <i style={{ background: color(kind) }} />
                {label}
              </span>
            </button>
          );
        })}
      </div>
      {ended > 0 && (
        <div
          className={styles.share}
          role="img"
          aria-label={`Specs of the last seven days: ${completed} completed, ${failed} failed, ${timedOut} timed out, ${limited > 0 ? `${limited} ended by a usage limit, ` : ''}${open} running`}
        >
          {[figures[1], figures[2], figures[3], ...figures.slice(5), figures[0]].map(
            ({ n, kind }) => n > 0 && <span key={kind} style={{ flex: n, background: color(kind) }} />
          )}
        </div>
      )}
    </>
  );
}

function getFigureStyles(theme: GrafanaTheme2) {
  return {
    figures: css({
      display: 'grid',
      gap: theme.spacing(1),
      gridTemplateColumns: 'repeat(5, minmax(0, 1fr))',
      '&:has(> :nth-child(6))': { gridTemplateColumns: 'repeat(6, minmax(0, 1fr))' },
      [narrow]: {
        gridTemplateColumns: 'repeat(6, minmax(0, 1fr))',
        '& > button': { gridColumn: 'span 2' },
        '&:not(:has(> :nth-child(6))) > button:nth-child(n + 4)': { gridColumn: 'span 3' },
      },
    }),
    figure: css({
      ...plainButton(theme),
      padding: theme.spacing(1, 1.5),
      borderRadius: theme.shape.radius.default,
      border: `1px solid ${theme.colors.border.weak}`,
      background: theme.colors.background.secondary,
      '&:hover': { background: theme.colors.emphasize(theme.colors.background.secondary, 0.03) },
      '&[aria-pressed=true]': {
        borderColor: theme.colors.primary.border,
        boxShadow: `inset 0 0 0 1px ${theme.colors.primary.border}`,
      },
      '& b': {
        display: 'block',
        fontSize: theme.typography.h2.fontSize,
        lineHeight: 1.2,
        fontWeight: theme.typography.fontWeightMedium,
        fontVariantNumeric: 'tabular-nums',
      },
      '& span': {
        color: theme.colors.text.secondary,
        fontSize: theme.typography.bodySmall.fontSize,
        whiteSpace: 'nowrap',
      },
      '& i': {
        display: 'inline-block',
        width: 10,
        height: 10,
        borderRadius: '50%',
        marginRight: theme.spacing(0.75),
        verticalAlign: -1,
      },
    }),
    share: css({ display: 'flex', height: 8, borderRadius: theme.shape.radius.pill, overflow: 'hidden', gap: 2 }),
  };
}

function Running({ state, now, setFilter }: Pick<Props, 'state' | 'now' | 'setFilter'>) {
  const styles = useStyles2(getListStyles);
  const running = state.running.slice(0, listed);
  const rest = state.silent.slice(0, listed - running.length);
  const idle = new Map(idleIn(state, now).map((i) => [JSON.stringify([i.session, i.spec]), i.for]));
  const tagOf = (open: Open) =>
    idle.has(keyOf(open)) ? 'no output' : isLimited(open, now) ? 'usage limit' : undefined;
  const more = state.specs.open + state.specs.silent - running.length - rest.length;
  const line = (open: Open, key: string, tag?: string) => (
    <Line
      key={key}
      testid="running-row"
      onClick={() => setFilter({ ...everything, session: open.session, spec: open.spec })}
      what={nameOf(open.spec || open.session)}
      tag={tag}
      tone={tag ? 'sleeping' : undefined}
    >
      {[
        several(state) && open.spec ? nameOf(open.session, 40) : '',
        used(open.usage),
        idle.has(key) ? `no sign of work for ${span(idle.get(key)!)}` : '',
        span(now - Date.parse(open.since)),
      ]
        .filter((text) => text !== '')
        .join(', ')}
    </Line>
  );
  return (
    <div>
      <h2>Running now</h2>
      {state.running.length === 0 && <p className={styles.soft}>No spec runs.</p>}
      {running.map((open) => line(open, keyOf(open), tagOf(open)))}
      {rest.map((open) => line(open, keyOf(open), 'silent'))}
      {more > 0 && <p className={styles.soft}>and {more.toLocaleString()} more</p>}
    </div>
  );
}

const keyOf = ({ session, spec }: Open): string => JSON.stringify([session, spec]);

// several reports whether there are several sessions, so that specs are shown with
// their session.
const several = (state: State): boolean =>
  new Set([...state.running, ...state.silent].map((open) => open.session)).size > 1;

const statusWords: Record<SessionStatus, string> = { running: 'awake', sleeping: 'asleep', done: 'done' };

function Sessions({ state, now, filter, setFilter }: Props) {
  const styles = useStyles2(getListStyles);
  return (
    <div>
      <h2>Sessions</h2>
      {state.sessions.length === 0 && <p className={styles.soft}>None in the last seven days.</p>}
      {state.sessions.slice(0, listed).map((s) => {
        const status = statusAt(s, now);
        const idle = idleFor(s, now);
        const limit = limitOf(s, now);
        const latest = s.lastHeartbeat
          ? `heartbeat ${ago(now - Date.parse(s.lastHeartbeat)).toLowerCase()}`
          : `last event ${ago(now - Date.parse(s.lastSeen)).toLowerCase()}`;
        return (
          <Line
            key={s.session}
            testid="session-row"
            what={nameOf(s.session)}
            tag={limit !== null ? 'usage limit' : idle === null ? statusWords[status] : 'no output'}
            tone={limit !== null || idle !== null ? 'sleeping' : status}
            onClick={() => setFilter(filter.session === s.session ? everything : { ...everything, session: s.session })}
          >
            {[
              used(s.usage),
              clockOff(s),
              limit !== null ? lifted(limit, now) : idle === null ? latest : `no sign of work for ${span(idle)}`,
            ]
              .filter((text) => text !== '')
              .join(', ')}
          </Line>
        );
      })}
      {state.sessionsTotal > listed && (
        <p className={styles.soft}>and {(state.sessionsTotal - listed).toLocaleString()} more</p>
      )}
    </div>
  );
}

// clockOff returns by how much the clock of a writer is wrong; empty: it is not.
function clockOff({ clockAheadSeconds }: Session): string {
  return Math.abs(clockAheadSeconds) < 60
    ? ''
    : `its clock is ${span(Math.abs(clockAheadSeconds) * 1_000)} ${clockAheadSeconds > 0 ? 'ahead' : 'behind'}`;
}

interface LineProps {
  what: string;
  tag?: string;
  tone?: SessionStatus;
  testid?: string;
  onClick(): void;
  children: React.ReactNode;
}

// Line is a row of a list that shows its events when clicked.
function Line({ what, tag, tone, testid, onClick, children }: LineProps) {
  const styles = useStyles2(getListStyles);
  return (
    <button
      type="button"
      className={styles.line}
      data-testid={testid}
      title={`${brief(what, 300)}: show its events`}
      onClick={onClick}
    >
      {tag && <span className={cx(styles.tag, tone && styles[tone])}>{tag}</span>}
      <span className={styles.what}>{what}</span>
      <span className={styles.soft}>{children}</span>
    </button>
  );
}

function getListStyles(theme: GrafanaTheme2) {
  const fill = (color: string) => ({ color, borderColor: 'currentColor' });
  return {
    line: css({
      ...plainButton(theme),
      display: 'flex',
      gap: theme.spacing(1),
      alignItems: 'baseline',
      width: '100%',
      padding: theme.spacing(0.5, 0),
      borderTop: `1px solid ${theme.colors.border.weak}`,
      '&:hover': { background: theme.colors.action.hover, '& > *': { color: theme.colors.text.primary } },
      'h2 + &': { borderTop: 0 },
    }),
    what: css({ flex: 1, minWidth: 0, overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }),
    tag: css({
      flex: 'none',
      fontSize: theme.typography.bodySmall.fontSize,
      padding: theme.spacing(0, 0.75),
      borderRadius: theme.shape.radius.pill,
      border: '1px solid',
    }),
    running: css(fill(theme.colors.success.text)),
    sleeping: css(fill(theme.colors.warning.text)),
    done: css(fill(theme.colors.text.secondary)),
    soft: soft(theme),
  };
}

// plainButton takes the look of a button away and keeps the mark of its focus.
function plainButton(theme: GrafanaTheme2) {
  return {
    all: 'unset',
    boxSizing: 'border-box',
    cursor: 'pointer',
    '&:focus-visible': { outline: `2px solid ${theme.colors.primary.border}`, outlineOffset: 1 },
  } as const;
}
