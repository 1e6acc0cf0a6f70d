// The view that the Grafana panel and the page of the gateway share.
import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { LoadingPlaceholder, useStyles2 } from '@grafana/ui';
import React, { useEffect, useState, useSyncExternalStore } from 'react';

import type { Connection, View } from '../connection/connection';
import { attend } from '../connection/presence';
import type { Settings } from '../connection/settings';
import { Boundary } from './Boundary';
import { ConnectionBar } from './ConnectionBar';
import { EventList } from './EventList';
import { everything } from './filter';
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

function Content({ view, now, connection }: { view: View; now: number; connection: Connection }) {
  const styles = useStyles2(getStyles);
  const [filter, setFilter] = useState(everything);
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
  return (
    <>
      <Summary
        state={state}
        now={serverNow}
        asOf={view.badge === 'offline' ? view.updatedAt : null}
        filter={filter}
        setFilter={setFilter}
        connection={connection}
      />
      <Boundary what="The timeline" retry={view}>
        <Timeline events={events} state={state} now={serverNow} setFilter={setFilter} />
      </Boundary>
      <Boundary what="The list of events" retry={view}>
        {/* In another history, an id means another event. */}
        <EventList
          key={view.history}
          events={events}
          state={state}
          now={serverNow}
          filter={filter}
          setFilter={setFilter}
        />
      </Boundary>
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
  return {
    frame: css({ containerType: 'inline-size', containerName: 'specwatch', height: '100%', overflow: 'auto' }),
    body: css({
      display: 'flex',
      flexDirection: 'column',
      gap: theme.spacing(2),
      minHeight: '100%',
      padding: theme.spacing(1),
      '& > *': { flexShrink: 0 },
    }),
    wait: css({
      display: 'grid',
      placeItems: 'center',
      padding: theme.spacing(6, 2),
      color: theme.colors.text.secondary,
    }),
  };
}
