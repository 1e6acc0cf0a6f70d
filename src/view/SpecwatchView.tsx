// The view that the Grafana panel and the page of the gateway share.
import { css, cx } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { LoadingPlaceholder, RadioButtonGroup, useStyles2 } from '@grafana/ui';
import React, { useEffect, useState, useSyncExternalStore } from 'react';

import type { Connection, View } from '../connection/connection';
import { attend } from '../connection/presence';
import type { Settings } from '../connection/settings';
import { Boundary } from './Boundary';
import { ConnectionBar } from './ConnectionBar';
import { EventList } from './EventList';
import { type Filter, everything } from './filter';
import { container, narrow } from './styles';
import { Notes } from './Notes';
import { SettingsDialog } from './SettingsDialog';
import { SignIn } from './SignIn';
import { Summary } from './Summary';
import { Timeline } from './Timeline';

interface Props {
  connection: Connection;
  onSettings(settings: Settings): void;
  onSignIn?(token: string): Promise<void>;
}

export function SpecwatchView(props: Props) {
  return (
    <Boundary what="Specwatch">
      <Frame {...props} />
    </Boundary>
  );
}

function Frame({ connection, onSettings, onSignIn }: Props) {
  const styles = useStyles2(getStyles);
  const view = useSyncExternalStore(connection.subscribe, connection.snapshot);
  const now = useNow();
  const [settingsOpen, setSettingsOpen] = useState(false);
  useEffect(() => attend(connection), [connection]);
  return (
    <div className={styles.frame} data-specwatch>
      <div className={styles.body}>
        <Boundary what="The connection" retry={view}>
          <ConnectionBar view={view} now={now} connection={connection} openSettings={() => setSettingsOpen(true)} />
        </Boundary>
        <Boundary what="The notes about the connection" retry={view}>
          <Notes view={view} connection={connection} />
        </Boundary>
        {view.signIn && onSignIn ? (
          <SignIn signIn={onSignIn} done={connection.signedIn} />
        ) : (
          <Content view={view} now={now} connection={connection} />
        )}
      </div>
      {settingsOpen && (
        <SettingsDialog
          settings={view.settings}
          save={(settings) => {
            onSettings(settings);
            connection.configure(settings);
            setSettingsOpen(false);
          }}
          cancel={() => setSettingsOpen(false)}
        />
      )}
    </div>
  );
}

// A narrow view shows one part at a time, so that the events are not below the rest.
type Part = 'now' | 'events';
const parts: Array<{ value: Part; label: string }> = [
  { value: 'now', label: 'Now' },
  { value: 'events', label: 'Events' },
];

function Content({ view, now, connection }: { view: View; now: number; connection: Connection }) {
  const styles = useStyles2(getStyles);
  const [filter, setFilter] = useState(everything);
  const [part, setPart] = useState<Part>('now');
  const { events, state } = view;
  if (!state) {
    return (
      <div className={styles.wait}>
        {view.badge === 'offline' ? (
          <p>No data has been received yet. Trying again.</p>
        ) : (
          <LoadingPlaceholder text="Connecting…" />
        )}
      </div>
    );
  }
  // Ages stop counting while disconnected, or while events wait for Refresh: the
  // current state is not known. By the database's clock.
  const stale = view.badge === 'offline' || view.settings.manualRefreshOnly;
  const serverNow = (stale ? (view.updatedAt ?? now) : now) + view.skew;
  const showEvents = (filter: Filter) => {
    setFilter(filter);
    setPart('events');
  };
  return (
    <>
      <div className={styles.choice}>
        <RadioButtonGroup aria-label="Part of the view" fullWidth options={parts} value={part} onChange={setPart} />
      </div>
      <div className={cx(styles.part, part !== 'now' && styles.hidden)}>
        <Summary
          state={state}
          now={serverNow}
          asOf={view.badge === 'offline' ? view.updatedAt : null}
          filter={filter}
          setFilter={showEvents}
          connection={connection}
        />
        <Boundary what="The timeline" retry={view}>
          <Timeline events={events} state={state} now={serverNow} setFilter={showEvents} />
        </Boundary>
      </div>
      <div className={cx(styles.part, styles.rest, part !== 'events' && styles.hidden)}>
        <Boundary what="The list of events" retry={view}>
          {/* In another history of the database, an id belongs to another event. */}
          <EventList
            key={view.history}
            events={events}
            state={state}
            now={serverNow}
            filter={filter}
            setFilter={setFilter}
          />
        </Boundary>
      </div>
    </>
  );
}

// useNow updates the ages on the screen.
function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const tick = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(tick);
  }, []);
  return now;
}

function getStyles(theme: GrafanaTheme2) {
  const column = { display: 'flex', flexDirection: 'column', gap: theme.spacing(2) } as const;
  return {
    frame: css({ containerType: 'inline-size', containerName: container, height: '100%', overflow: 'auto' }),
    body: css({
      ...column,
      minHeight: '100%',
      padding: theme.spacing(1),
      '& > *': { flexShrink: 0 },
    }),
    choice: css({ display: 'none', [narrow]: { display: 'block' } }),
    part: css({ ...column, minWidth: 0 }),
    rest: css({ flexGrow: 1 }),
    hidden: css({ [narrow]: { display: 'none' } }),
    wait: css({
      display: 'grid',
      placeItems: 'center',
      padding: theme.spacing(6, 2),
      color: theme.colors.text.secondary,
    }),
  };
}
