// The answer at a glance: alive or asleep, what runs and for how long, how the
// specs ended, and who waits for the person.
import { css, cx } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Icon, type IconName, useStyles2, useTheme2 } from '@grafana/ui';
import React from 'react';

import type { SessionStatus, State } from '../connection/model';
import type { Kind } from '../contract.gen';
import { type Filter, everything } from './filter';
import { ago, clock, said, span } from './format';
import { type Mood, glance, statusAt } from './glance';
import { palette } from './kinds';

const listed = 5; // of each list; the events below have the rest

interface Props {
  state: State;
  now: number;
  filter: Filter;
  setFilter(filter: Filter): void;
}

// asOf is when the data were last known to be true, by this machine's clock;
// null: they are.
export function Summary({ state, now, asOf, filter, setFilter }: Props & { asOf: number | null }) {
  const styles = useStyles2(getStyles);
  return (
    <section className={styles.summary} aria-label="Summary">
      <Glance state={state} now={now} asOf={asOf} />
      <Figures state={state} filter={filter} setFilter={setFilter} />
      <Waiting state={state} now={now} setFilter={setFilter} />
      <div className={styles.columns}>
        <Running state={state} now={now} setFilter={setFilter} />
        <Sessions state={state} now={now} filter={filter} setFilter={setFilter} />
      </div>
    </section>
  );
}

const icons: Record<Mood, IconName> = { awake: 'heart', asleep: 'exclamation-triangle', done: 'check-circle', none: 'info-circle' };

function Glance({ state, now, asOf }: { state: State; now: number; asOf: number | null }) {
  const styles = useStyles2(getStyles);
  const { mood, headline, detail } = glance(state, now);
  return (
    <p className={styles.glance} data-testid="glance" data-mood={mood}>
      <Icon name={icons[mood]} size="xl" />
      <span>
        {asOf !== null && `At ${clock(asOf, Date.now())}: `}<strong>{headline}</strong>, {detail}
      </span>
    </p>
  );
}

function Figures({ state, filter, setFilter }: Omit<Props, 'now'>) {
  const styles = useStyles2(getStyles);
  const colors = palette(useTheme2()).kinds;
  const { open, completed, failed, timedOut } = state.specs;
  const figures: Array<{ n: number; label: string; kind: Kind }> = [
    { n: open, label: 'running', kind: 'spec_started' },
    { n: completed, label: 'completed', kind: 'spec_completed' },
    { n: failed, label: 'failed', kind: 'spec_failed' },
    { n: timedOut, label: 'timed out', kind: 'timeout_triggered' },
    { n: state.waitingTotal, label: 'waiting for you', kind: 'intervention_request' },
  ];
  const ended = completed + failed + timedOut + open;
  return (
    <>
      <div className={styles.figures}>
        {figures.map(({ n, label, kind }) => {
          const target: Filter = { ...everything, kinds: [kind], latest: true };
          const chosen = JSON.stringify(target) === JSON.stringify(filter);
          return (
            <button
              key={label} type="button" className={styles.figure} data-testid={`count-${label.replaceAll(' ', '-')}`} aria-pressed={chosen}
              title={chosen ? 'Show all events' : 'Show these events'} onClick={() => setFilter(chosen ? everything : target)}
            >
              <b>{n.toLocaleString()}</b>
              <span><i style={{ background: colors[kind] }} />{label}</span>
            </button>
          );
        })}
      </div>
      {ended > 0 && (
        <div className={styles.share} role="img" aria-label={`Specs of the last seven days: ${completed} completed, ${failed} failed, ${timedOut} timed out, ${open} running`}>
          {[figures[1], figures[2], figures[3], figures[0]].map(({ n, kind }) => n > 0 && <span key={kind} style={{ flex: n, background: colors[kind] }} />)}
        </div>
      )}
    </>
  );
}

function Waiting({ state, now, setFilter }: Pick<Props, 'state' | 'now' | 'setFilter'>) {
  const styles = useStyles2(getStyles);
  if (state.waiting.length === 0) {
    return null;
  }
  const more = state.waitingTotal - Math.min(listed, state.waiting.length);
  return (
    <div className={styles.waiting}>
      <h2>Waiting for you</h2>
      {state.waiting.slice(0, listed).map((w) => (
        <Line key={w.id} onClick={() => setFilter({ ...everything, session: w.session, spec: w.spec })} what={said(w.data) || 'An intervention was requested.'} loud>
          {w.spec ? `${w.spec}, ` : ''}{w.session}, {ago(now - Date.parse(w.at))}
        </Line>
      ))}
      {more > 0 && <p className={styles.soft}>and {more} more</p>}
    </div>
  );
}

function Running({ state, now, setFilter }: Pick<Props, 'state' | 'now' | 'setFilter'>) {
  const styles = useStyles2(getStyles);
  const more = state.specs.open - Math.min(listed, state.running.length);
  return (
    <div>
      <h2>Running now</h2>
      {state.running.length === 0 && <p className={styles.soft}>No spec is open.</p>}
      {state.running.slice(0, listed).map((open) => (
        <Line key={`${open.session}\n${open.spec}`} onClick={() => setFilter({ ...everything, session: open.session, spec: open.spec })} what={open.spec || open.session}>
          {span(now - Date.parse(open.since))}
        </Line>
      ))}
      {more > 0 && <p className={styles.soft}>and {more} more</p>}
    </div>
  );
}

const statusWords: Record<SessionStatus, string> = { running: 'awake', sleeping: 'asleep', done: 'done' };

function Sessions({ state, now, filter, setFilter }: Props) {
  const styles = useStyles2(getStyles);
  return (
    <div>
      <h2>Sessions</h2>
      {state.sessions.length === 0 && <p className={styles.soft}>None in the last seven days.</p>}
      {state.sessions.slice(0, listed).map((s) => {
        const status = statusAt(s, now);
        const heard = s.lastHeartbeat ? `heartbeat ${ago(now - Date.parse(s.lastHeartbeat)).toLowerCase()}` : `heard ${ago(now - Date.parse(s.lastSeen)).toLowerCase()}`;
        return (
          <Line
            key={s.session} testid="session-row" what={s.session} tag={statusWords[status]} tone={status}
            onClick={() => setFilter(filter.session === s.session ? everything : { ...everything, session: s.session })}
          >
            {heard}
          </Line>
        );
      })}
      {state.sessions.length > listed && <p className={styles.soft}>and {state.sessions.length - listed} more</p>}
    </div>
  );
}

interface LineProps {
  what: string;
  loud?: boolean;
  tag?: string;
  tone?: SessionStatus;
  testid?: string;
  onClick(): void;
  children: React.ReactNode;
}

// Line is a row of a list that leads to its events.
function Line({ what, loud, tag, tone, testid, onClick, children }: LineProps) {
  const styles = useStyles2(getStyles);
  return (
    <button type="button" className={cx(styles.line, loud && styles.loud)} data-testid={testid} title={`${what}: show its events`} onClick={onClick}>
      {tag && <span className={cx(styles.tag, tone && styles[tone])}>{tag}</span>}
      <span className={styles.what}>{what}</span>
      <span className={styles.soft}>{children}</span>
    </button>
  );
}

function getStyles(theme: GrafanaTheme2) {
  const fill = (color: string) => ({ color, borderColor: 'currentColor' });
  const plain = { all: 'unset', boxSizing: 'border-box', cursor: 'pointer', '&:focus-visible': { outline: `2px solid ${theme.colors.primary.border}`, outlineOffset: 1 } } as const;
  const narrow = '@container specwatch (max-width: 560px)';
  return {
    summary: css({ display: 'grid', gap: theme.spacing(1.5), gridTemplateColumns: 'minmax(0, 1fr)', '& h2': { ...theme.typography.h6, color: theme.colors.text.secondary, margin: theme.spacing(0, 0, 0.5) }, '& p': { margin: 0 } }),
    glance: css({ display: 'flex', alignItems: 'center', gap: theme.spacing(1.5), fontSize: theme.typography.h4.fontSize, lineHeight: 1.3, '& > span': { minWidth: 0, overflowWrap: 'anywhere' }, '& svg': { color: theme.colors.text.secondary }, '&[data-mood=awake] svg': { color: theme.colors.success.text }, '&[data-mood=asleep] svg': { color: theme.colors.warning.text } }),
    figures: css({ display: 'grid', gap: theme.spacing(1), gridTemplateColumns: 'repeat(5, minmax(0, 1fr))', [narrow]: { gridTemplateColumns: 'repeat(6, minmax(0, 1fr))', '& > button': { gridColumn: 'span 2' }, '& > button:nth-child(n + 4)': { gridColumn: 'span 3' } } }),
    figure: css({
      ...plain, padding: theme.spacing(1, 1.5), borderRadius: theme.shape.radius.default, border: `1px solid ${theme.colors.border.weak}`, background: theme.colors.background.secondary,
      '&:hover': { background: theme.colors.emphasize(theme.colors.background.secondary, 0.03) },
      '&[aria-pressed=true]': { borderColor: theme.colors.primary.border, boxShadow: `inset 0 0 0 1px ${theme.colors.primary.border}` },
      '& b': { display: 'block', fontSize: theme.typography.h2.fontSize, lineHeight: 1.2, fontWeight: theme.typography.fontWeightMedium, fontVariantNumeric: 'tabular-nums' },
      '& span': { color: theme.colors.text.secondary, fontSize: theme.typography.bodySmall.fontSize, whiteSpace: 'nowrap' },
      '& i': { display: 'inline-block', width: 10, height: 10, borderRadius: '50%', marginRight: theme.spacing(0.75), verticalAlign: -1 },
    }),
    share: css({ display: 'flex', height: 8, borderRadius: theme.shape.radius.pill, overflow: 'hidden', gap: 2 }),
    columns: css({ display: 'grid', gap: theme.spacing(1.5, 3), gridTemplateColumns: 'repeat(2, minmax(0, 1fr))', [narrow]: { gridTemplateColumns: 'minmax(0, 1fr)' } }),
    waiting: css({ padding: theme.spacing(1, 1.5), borderRadius: theme.shape.radius.default, border: `1px solid ${theme.colors.warning.border}`, background: theme.colors.warning.transparent, '& h2, & span': { color: theme.colors.text.primary } }),
    line: css({ ...plain, display: 'flex', gap: theme.spacing(1), alignItems: 'baseline', width: '100%', padding: theme.spacing(0.5, 0), borderTop: `1px solid ${theme.colors.border.weak}`, '&:hover': { background: theme.colors.action.hover, '& > *': { color: theme.colors.text.primary } }, 'h2 + &': { borderTop: 0 } }),
    loud: css({ flexWrap: 'wrap', '& > :first-of-type': { fontWeight: theme.typography.fontWeightMedium, whiteSpace: 'normal', overflowWrap: 'anywhere', flex: '1 1 100%' } }),
    what: css({ flex: 1, minWidth: 0, overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }),
    soft: css({ color: theme.colors.text.secondary, fontSize: theme.typography.bodySmall.fontSize }),
    tag: css({ flex: 'none', fontSize: theme.typography.bodySmall.fontSize, padding: theme.spacing(0, 0.75), borderRadius: theme.shape.radius.pill, border: '1px solid' }),
    running: css(fill(theme.colors.success.text)),
    sleeping: css(fill(theme.colors.warning.text)),
    done: css(fill(theme.colors.text.secondary)),
  };
}
