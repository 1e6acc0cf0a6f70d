// What the Grafana panel and the gateway's page both show.
import React, { useEffect, useState, useSyncExternalStore } from 'react';

import type { Connection, View } from '../connection/connection';
import type { Settings } from '../connection/settings';
import { ConnectionBar } from './ConnectionBar';
import { EventList } from './EventList';
import { SettingsDialog } from './SettingsDialog';
import { SignIn } from './SignIn';
import { Summary } from './Summary';
import { Timeline } from './Timeline';
import { WaitingList } from './WaitingList';
import css from './view.css';

interface Props {
  connection: Connection;
  dark: boolean;
  listHeight?: number;
  onSettings(settings: Settings): void;
  onSignIn?(token: string): Promise<void>;
}

export function SpecwatchView({ connection, dark, listHeight, onSettings, onSignIn }: Props) {
  const view = useSyncExternalStore(connection.subscribe, connection.snapshot);
  const now = useNow();
  const [settingsOpen, setSettingsOpen] = useState(false);
  return (
    <div className={dark ? 'sw dark' : 'sw'}>
      <style>{css}</style>
      <div className="sw-body">
        <ConnectionBar view={view} now={now} connection={connection} openSettings={() => setSettingsOpen(true)} />
        <Notes view={view} connection={connection} />
        {view.signIn && onSignIn ? <SignIn signIn={onSignIn} done={() => connection.signedIn()} /> : <Content view={view} now={now} listHeight={listHeight} />}
      </div>
      {settingsOpen && (
        <SettingsDialog
          settings={view.settings}
          save={(settings) => {
            onSettings(settings);
            connection.setSettings(settings);
            setSettingsOpen(false);
          }}
          cancel={() => setSettingsOpen(false)}
        />
      )}
    </div>
  );
}

function Content({ view, now, listHeight }: { view: View; now: number; listHeight?: number }) {
  if (!view.state) {
    return (
      <div className="sw-card sw-empty">
        {view.badge === 'offline' ? <p>Nothing has been received yet. Trying again.</p> : <><span className="sw-spin" /> <p>Connecting…</p></>}
      </div>
    );
  }
  const serverNow = now + view.skew;
  return (
    <>
      <WaitingList state={view.state} now={serverNow} />
      <div className="sw-cols">
        <Summary state={view.state} now={serverNow} />
        <Timeline events={view.events} state={view.state} now={serverNow} />
      </div>
      <EventList events={view.events} now={serverNow} height={listHeight} />
    </>
  );
}

function Notes({ view, connection }: { view: View; connection: Connection }) {
  return (
    <>
      {view.fallback && (
        <div className="sw-note warn" role="alert">
          {view.couldBeLive ? (
            <>
              <span>The live connection works again. Switch back to real-time?</span>
              <button className="primary" onClick={() => connection.setMode('websocket')}>Switch back</button>
            </>
          ) : (
            <span>The live connection was lost. Polling every {view.settings.pollingInterval} s until you switch back.</span>
          )}
        </div>
      )}
      {view.pending > 0 && (
        <div className="sw-note">
          <span>{view.pending === 1 ? '1 new event' : `${view.pending} new events`}</span>
          <button onClick={() => void connection.refresh()}>Show</button>
        </div>
      )}
      {view.error && view.badge === 'offline' && !view.signIn && (
        <div className="sw-note warn" role="alert">
          <span>{view.error}</span>
        </div>
      )}
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
