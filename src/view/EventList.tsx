// The events, newest first. Only visible rows are in the document.
import { css, cx } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Button, ClipboardButton, FilterInput, FilterPill, Icon, Select, useStyles2, useTheme2 } from '@grafana/ui';
import { type Virtualizer, useVirtualizer } from '@tanstack/react-virtual';
import React, { useLayoutEffect, useMemo, useRef, useState } from 'react';

import { kinds } from '../contract.gen';
import { compact, pretty } from '../connection/json';
import type { SpecEvent, State } from '../connection/model';
import { firstEvents } from '../connection/transport';
import { Boundary } from './Boundary';
import { type Filter, everything, isEverything, matches, namesOf } from './filter';
import { clock, said, usedBy } from './format';
import { isKnown, kindName, palette, shownKind } from './kinds';
import { heading, narrow, soft } from './styles';
import { brief, messageOf, nameOf } from './text';

interface Props {
  events: readonly SpecEvent[];
  state: State;
  now: number;
  filter: Filter;
  setFilter(filter: Filter): void;
}

type FilterProps = Pick<Props, 'events' | 'filter' | 'setFilter'>;

const rowHeight = 36; // px, of a collapsed row

export function EventList({ events, state, now, filter, setFilter }: Props) {
  const styles = useStyles2(getSectionStyles);
  const scroller = useRef<HTMLDivElement>(null);
  const [unfolded, fold] = useUnfolded();
  const open = filter.latest ? state : null;
  const shown = useMemo(() => matches(events, filter, open), [events, filter, open]);
  // Not in Rows, which goes away while no event matches: the measured heights stay.
  const rows = useVirtualizer({
    count: shown.length,
    getScrollElement: () => scroller.current,
    getItemKey: (i) => shown[i].id,
    estimateSize: () => rowHeight,
    overscan: 12,
  });
  useSteadyScroll(scroller, shown);
  return (
    <section className={styles.section} aria-label="Events">
      <Head events={events} shown={shown} filter={filter} setFilter={setFilter} />
      {shown.length === 0 ? (
        <NoEvents events={events} filter={filter} setFilter={setFilter} />
      ) : (
        <Rows scroller={scroller} rows={rows} shown={shown} now={now} unfolded={unfolded} fold={fold} />
      )}
    </section>
  );
}

function getSectionStyles() {
  return {
    section: css({ display: 'flex', flexDirection: 'column', flex: '1 0 360px', minHeight: 360, minWidth: 0 }),
  };
}

// useUnfolded returns the ids of the unfolded events, and what folds or unfolds one.
function useUnfolded(): [ReadonlySet<number>, (id: number) => void] {
  const [unfolded, setUnfolded] = useState<ReadonlySet<number>>(new Set());
  const fold = (id: number) => {
    setUnfolded((before) => {
      const after = new Set(before);
      if (!after.delete(id)) {
        after.add(id);
      }
      return after;
    });
  };
  return [unfolded, fold];
}

// useSteadyScroll keeps the visible rows in place while newer events are added
// above.
function useSteadyScroll(scroller: React.RefObject<HTMLDivElement | null>, shown: readonly SpecEvent[]): void {
  const top = useRef<number | undefined>(undefined);
  useLayoutEffect(() => {
    const before = top.current;
    top.current = shown[0]?.id;
    const element = scroller.current;
    if (before === undefined || before === top.current || !element || element.scrollTop === 0) {
      return;
    }
    const pushed = shown.findIndex((e) => e.id === before);
    if (pushed > 0) {
      element.scrollBy(0, pushed * rowHeight);
    }
  }, [scroller, shown]);
}

function Head({ events, shown, filter, setFilter }: FilterProps & { shown: readonly SpecEvent[] }) {
  const styles = useStyles2(getHeadStyles);
  const usage = useMemo(() => usedBy(shown), [shown]);
  return (
    <div className={styles.head}>
      <h2>Events</h2>
      <span className={styles.soft} data-testid="event-count">
        {shown.length.toLocaleString()}
        {/* A view begins with this number of events; the database may have more. */}
        {events.length >= firstEvents && ` of the newest ${events.length.toLocaleString()}`}
      </span>
      {usage !== '' && (
        <span className={styles.soft} data-testid="events-usage" title="Used by these events together">
          {usage}
        </span>
      )}
      <Filters events={events} filter={filter} setFilter={setFilter} />
    </div>
  );
}

function getHeadStyles(theme: GrafanaTheme2) {
  return {
    head: css({
      display: 'flex',
      flexWrap: 'wrap',
      alignItems: 'center',
      gap: theme.spacing(1),
      marginBottom: theme.spacing(1),
      '& h2': heading(theme),
    }),
    soft: soft(theme),
  };
}

function Filters({ events, filter, setFilter }: FilterProps) {
  const styles = useStyles2(getFilterStyles);
  const names = useMemo(() => namesOf(events, filter.session), [events, filter.session]);
  const set = (part: Partial<Filter>) => setFilter({ ...filter, latest: false, ...part });
  return (
    <div className={styles.filters} role="search" aria-label="Filter events">
      <div className={styles.search}>
        <FilterInput
          placeholder="Search text"
          value={filter.text}
          onChange={(text) => set({ text })}
          escapeRegex={false}
          aria-label="Search text"
        />
      </div>
      <NameSelect
        label="Session"
        placeholder="All sessions"
        names={names.sessions}
        chosen={filter.session}
        choose={(session) => set({ session, spec: null })}
      />
      <NameSelect
        label="Spec"
        placeholder="All specs"
        names={names.specs}
        chosen={filter.spec}
        choose={(spec) => set({ spec })}
      />
      <KindPills events={events} filter={filter} setFilter={setFilter} set={set} />
    </div>
  );
}

interface NameSelectProps {
  label: string;
  placeholder: string;
  names: string[];
  chosen: string | null;
  choose(name: string | null): void;
}

function NameSelect({ label, placeholder, names, chosen, choose }: NameSelectProps) {
  const styles = useStyles2(getFilterStyles);
  const options = [...new Set(chosen === null ? names : [chosen, ...names])].map((value) => ({
    value,
    label: nameOf(value) || '(no spec)',
  }));
  return (
    <div className={styles.select}>
      <Select<string>
        aria-label={label}
        placeholder={placeholder}
        isClearable
        options={options}
        value={chosen}
        onChange={(v) => choose(v?.value ?? null)}
      />
    </div>
  );
}

function KindPills({ events, filter, setFilter, set }: FilterProps & { set(part: Partial<Filter>): void }) {
  const styles = useStyles2(getFilterStyles);
  const customKinds = useMemo(() => customOf(events, filter.kinds), [events, filter.kinds]);
  const toggle = (kind: string) =>
    set({ kinds: filter.kinds.includes(kind) ? filter.kinds.filter((k) => k !== kind) : [...filter.kinds, kind] });
  return (
    <div className={styles.pills} role="group" aria-label="Kinds">
      {filter.latest && <FilterPill label="latest outcome of each spec" selected onClick={() => set({})} />}
      {[...kinds, ...customKinds].map((kind) => (
        <FilterPill
          key={kind}
          label={brief(kindName(kind), 40)}
          selected={filter.kinds.includes(kind)}
          onClick={() => toggle(kind)}
        />
      ))}
      {!isEverything(filter) && (
        <Button size="sm" fill="text" icon="times" onClick={() => setFilter(everything)}>
          Clear
        </Button>
      )}
    </div>
  );
}

function getFilterStyles(theme: GrafanaTheme2) {
  return {
    filters: css({ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: theme.spacing(1), flex: '1 1 100%' }),
    search: css({ flex: '1 1 160px' }),
    select: css({ flex: '1 1 140px', maxWidth: 260, minWidth: 0, [narrow]: { maxWidth: 'none' } }),
    pills: css({ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: theme.spacing(0.5) }),
  };
}

const customShown = 12; // custom kinds in the menu; the text search finds others

// customOf returns the custom kinds of the events, the latest first.
function customOf(events: readonly SpecEvent[], chosen: readonly string[]): string[] {
  const found = new Set(chosen.filter((kind) => !isKnown(kind)));
  for (const event of events) {
    const kind = shownKind(event);
    if (!isKnown(kind) && found.size < customShown) {
      found.add(kind);
    }
  }
  return [...found];
}

function NoEvents({ events, filter, setFilter }: FilterProps) {
  const styles = useStyles2(getNoEventsStyles);
  return (
    <div className={styles.empty}>
      {isEverything(filter) ? (
        <>
          <p>No event yet. The next one appears here.</p>
          <code>specwatch run --spec hello -- echo hello</code>
        </>
      ) : (
        <>
          <p>None of the {events.length.toLocaleString()} events held here matches.</p>
          <Button variant="secondary" size="sm" onClick={() => setFilter(everything)}>
            Show all events
          </Button>
        </>
      )}
    </div>
  );
}

function getNoEventsStyles(theme: GrafanaTheme2) {
  return {
    empty: css({
      display: 'grid',
      gap: theme.spacing(1),
      justifyItems: 'center',
      textAlign: 'center',
      color: theme.colors.text.secondary,
      padding: theme.spacing(4, 2),
      '& p': { margin: 0 },
      '& code': { overflowWrap: 'anywhere' },
    }),
  };
}

interface RowsProps {
  scroller: React.RefObject<HTMLDivElement | null>;
  rows: Virtualizer<HTMLDivElement, Element>;
  shown: readonly SpecEvent[];
  now: number;
  unfolded: ReadonlySet<number>;
  fold(id: number): void;
}

function Rows({ scroller, rows, shown, now, unfolded, fold }: RowsProps) {
  const styles = useStyles2(getRowsStyles);
  return (
    <div className={styles.list} ref={scroller} tabIndex={0} role="region" aria-label="List of events">
      <div className={styles.rows} style={{ height: rows.getTotalSize() }}>
        {rows.getVirtualItems().map((item) => {
          const event = shown[item.index];
          return (
            <div
              key={item.key}
              ref={rows.measureElement}
              className={styles.row}
              style={{ transform: `translateY(${item.start}px)` }}
              data-testid="event-row"
              data-event-id={event.id}
              data-index={item.index}
            >
              <Boundary what={`Event ${event.id}`} retry={shown}>
                <Row event={event} now={now} open={unfolded.has(event.id)} fold={() => fold(event.id)} />
              </Boundary>
            </div>
          );
        })}
      </div>
    </div>
  );
}

function getRowsStyles(theme: GrafanaTheme2) {
  return {
    list: css({
      flex: '1 1 0',
      minHeight: 0,
      overflow: 'auto',
      borderTop: `1px solid ${theme.colors.border.weak}`,
      '&:focus-visible': { outline: `2px solid ${theme.colors.primary.border}`, outlineOffset: -2 },
    }),
    rows: css({ position: 'relative', width: '100%' }),
    row: css({ position: 'absolute', left: 0, width: '100%', borderBottom: `1px solid ${theme.colors.border.weak}` }),
  };
}

function Row({ event, now, open, fold }: { event: SpecEvent; now: number; open: boolean; fold(): void }) {
  const styles = useStyles2(getRowStyles);
  const color = palette(useTheme2()).kind;
  const kind = shownKind(event);
  const id = `specwatch-event-${event.id}`;
  return (
    <>
      <button
        type="button"
        className={styles.line}
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        onClick={fold}
      >
        <Icon name={open ? 'angle-down' : 'angle-right'} />
        <time dateTime={event.at} title={event.at}>
          {clock(Date.parse(event.at), now)}
        </time>
        <span className={styles.kind} data-kind={event.kind} title={isKnown(kind) ? undefined : event.kind}>
          <i style={{ background: color(kind) }} />
          {kindName(kind)}
        </span>
        <span className={styles.what} data-spec>
          {nameOf(event.spec || event.session)}
        </span>
        {event.spec && <span className={cx(styles.soft, styles.session)}>{nameOf(event.session)}</span>}
        <span className={cx(styles.soft, styles.said)}>{said(event.data)}</span>
      </button>
      {open && <Data id={id} event={event} />}
    </>
  );
}

function getRowStyles(theme: GrafanaTheme2) {
  return {
    line: css({
      all: 'unset',
      boxSizing: 'border-box',
      cursor: 'pointer',
      width: '100%',
      minHeight: rowHeight - 1,
      padding: theme.spacing(0.5, 0.5),
      display: 'grid',
      alignItems: 'baseline',
      gap: theme.spacing(0, 1),
      gridTemplateColumns: '16px max-content 100px minmax(0, max-content) minmax(0, max-content) minmax(0, 1fr)',
      '&:hover': { background: theme.colors.action.hover, '& > *': { color: theme.colors.text.primary } },
      '&:focus-visible': { outline: `2px solid ${theme.colors.primary.border}`, outlineOffset: -2 },
      '& > svg, & > div:first-child': { alignSelf: 'center' },
      '& > time': {
        color: theme.colors.text.secondary,
        fontVariantNumeric: 'tabular-nums',
        fontSize: theme.typography.bodySmall.fontSize,
        whiteSpace: 'nowrap',
      },
      [narrow]: {
        gridTemplateColumns: '16px minmax(0, 1fr) max-content',
        '& > time': { gridColumn: 3, gridRow: 1, justifySelf: 'end' },
        '& > span': { gridColumn: '2 / -1' },
        '& > [data-kind]': { gridColumn: 2, gridRow: 1 },
      },
    }),
    kind: css({
      whiteSpace: 'nowrap',
      overflow: 'hidden',
      textOverflow: 'ellipsis',
      fontWeight: theme.typography.fontWeightMedium,
      '& i': { display: 'inline-block', width: 9, height: 9, borderRadius: '50%', marginRight: theme.spacing(0.75) },
    }),
    what: css({ minWidth: 0, overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }),
    session: css({ overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }),
    said: css({ overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }),
    soft: soft(theme),
  };
}

const longest = 100_000; // characters shown of an event; Copy copies all

// outputOf returns the last output of a command.
function outputOf(data: unknown): string {
  const output =
    data !== null && typeof data === 'object'
      ? new Map<string, unknown>(Object.entries(data)).get('output')
      : undefined;
  return typeof output === 'string' ? messageOf(output.slice(-longest)).trimEnd() : '';
}

function Data({ id, event }: { id: string; event: SpecEvent }) {
  const styles = useStyles2(getDataStyles);
  const { text, cut } = useMemo(() => pretty(event, longest), [event]);
  const output = outputOf(event.data);
  return (
    <div id={id} className={styles.data}>
      {output !== '' && (
        <details className={styles.output} data-testid="output" open>
          <summary>Last output</summary>
          <pre tabIndex={0} aria-label="Last output">
            {output}
          </pre>
        </details>
      )}
      <div className={styles.all}>
        <div className={styles.copy}>
          <ClipboardButton size="sm" variant="secondary" icon="copy" getText={() => (cut ? compact(event) : text)}>
            Copy
          </ClipboardButton>
        </div>
        <pre>
          {text}
          {cut && '…'}
        </pre>
        {cut && <p className={styles.soft}>The first {longest.toLocaleString()} characters. Copy gives them all.</p>}
      </div>
    </div>
  );
}

function getDataStyles(theme: GrafanaTheme2) {
  return {
    data: css({
      margin: theme.spacing(0, 0.5, 1, 3),
      '& pre': {
        margin: 0,
        maxHeight: 260,
        overflow: 'auto',
        fontSize: theme.typography.bodySmall.fontSize,
        padding: theme.spacing(1),
      },
    }),
    output: css({
      marginBottom: theme.spacing(1),
      '& summary': { cursor: 'pointer', fontSize: theme.typography.bodySmall.fontSize },
    }),
    all: css({ position: 'relative' }),
    copy: css({ position: 'absolute', right: theme.spacing(0.5), top: theme.spacing(0.5), zIndex: 1 }),
    soft: soft(theme),
  };
}
