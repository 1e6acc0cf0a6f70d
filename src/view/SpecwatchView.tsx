// What the Grafana panel and the gateway's page both show.
import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { LoadingPlaceholder, useStyles2 } from '@grafana/ui';
import React, { useEffect, useState, useSyncExternalStore } from 'react';

import type { Connection, View } from '../connection/connection';
import { attend } from '../connection/presence';
import type { Settings } from '../connection/settings';
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

export function SpecwatchView({ connection, onSettings, onSignIn }: Props) {
  const styles = useStyles2(getStyles);
  const view = useSyncExternalStore(connection.subscribe, connection.snapshot);
  const now = useNow();
  const [settingsOpen, setSettingsOpen] = useState(false);
  useEffect(() => attend(connection), [connection]);
  return (
    <div className={styles.frame} data-specwatch>
      <div className={styles.body}>
        <ConnectionBar view={view} now={now} connection={connection} openSettings={() => setSettingsOpen(true)} />
        <Notes view={view} connection={connection} />
        {view.signIn && onSignIn ? <SignIn signIn={onSignIn} done={connection.signedIn} /> : <Content view={view} now={now} />}
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

function Content({ view, now }: { view: View; now: number }) {
  const styles = useStyles2(getStyles);
  const [filter, setFilter] = useState(everything);
  const { events, state } = view;
  if (!state) {
    return (
      <div className={styles.wait}>
        {view.badge === 'offline' ? <p>Nothing has been received yet. Trying again.</p> : <LoadingPlaceholder text="Connecting…" />}
      </div>
    );
  }
  // What is offline, or held back, does not grow old: nobody knows what became
  // of it. By the database's clock.
  const stale = view.badge === 'offline' || view.settings.manualRefreshOnly;
  const serverNow = (stale ? (view.updatedAt ?? now) : now) + view.skew;
  return (
    <>
      <Summary state={state} now={serverNow} asOf={view.badge === 'offline' ? view.updatedAt : null} filter={filter} setFilter={setFilter} />
      <Timeline events={events} state={state} now={serverNow} setFilter={setFilter} />
      <EventList events={events} now={serverNow} filter={filter} setFilter={setFilter} />
    </>
  );
}

// useNow makes ages grow on the screen.
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
    body: css({ display: 'flex', flexDirection: 'column', gap: theme.spacing(2), minHeight: '100%', padding: theme.spacing(1), '& > *': { flexShrink: 0 } }),
    wait: css({ display: 'grid', placeItems: 'center', padding: theme.spacing(6, 2), color: theme.colors.text.secondary }),
  };
}
