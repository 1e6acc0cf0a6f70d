import type { PanelProps } from '@grafana/data';
import React, { useEffect, useMemo, useRef, useSyncExternalStore } from 'react';

import { Connection } from '../connection/connection';
import { GrafanaTransport } from '../connection/grafana';
import { type Mode, type Settings, complete, remember, remembered } from '../connection/settings';
import { SpecwatchView } from '../view/SpecwatchView';
import { dashboardMode, driveDashboard, linkedMode, watchDashboard } from './dashboard';

export interface Options extends Settings {
  driveDashboard: boolean;
}

const pluginId = 'specwatch-events-datasource';

// The events come by the connection module and not by the panel's query: a
// panel's own buffer is cut and cleared by Grafana. The query says from which
// data source.
export function SpecwatchPanel({ data, options, height }: PanelProps<Options>) {
  const source = data.request?.targets.find((target) => target.datasource?.type === pluginId)?.datasource;
  const uid = source?.uid;
  const { preferredMode, pollingInterval, autoFallback, manualRefreshOnly } = options;
  const drive = options.driveDashboard;
  const connection = useMemo(() => {
    if (uid === undefined) {
      return null;
    }
    const settings = complete(remembered(), complete({ preferredMode, pollingInterval, autoFallback, manualRefreshOnly }));
    return new Connection(new GrafanaTransport(uid), settings, (drive && linkedMode()) || undefined);
  }, [uid, preferredMode, pollingInterval, autoFallback, manualRefreshOnly, drive]);
  useEffect(() => {
    connection?.start();
    return () => connection?.stop();
  }, [connection]);
  useDashboard(connection, drive);
  if (!connection) {
    return <div style={{ padding: 16 }}>Choose a Specwatch data source in this panel’s query.</div>;
  }
  return (
    <div style={{ height }}>
      <SpecwatchView connection={connection} onSettings={remember} />
    </div>
  );
}

// useDashboard keeps the dashboard's variable and the panel's toggle in step:
// whichever the person moves, the other follows.
function useDashboard(connection: Connection | null, drive: boolean): void {
  const asked = useRef<Mode | null>(null); // of the dashboard, which has not followed yet
  useEffect(() => {
    if (!connection || !drive) {
      return;
    }
    let last = '';
    const follow = () => {
      const { mode, settings } = connection.snapshot();
      const now = `${mode} ${settings.pollingInterval}`;
      if (now !== last) {
        last = now;
        const before = dashboardMode();
        asked.current = before !== undefined && before !== mode ? mode : null;
        driveDashboard(mode, settings.pollingInterval);
      }
    };
    follow();
    return connection.subscribe(follow);
  }, [connection, drive]);
  const variable = useSyncExternalStore(watchDashboard, dashboardMode);
  useEffect(() => {
    if (!connection || !drive || variable === undefined) {
      return;
    }
    if (asked.current !== null) {
      asked.current = variable === asked.current ? null : asked.current;
    } else if (variable !== connection.snapshot().mode) {
      connection.choose(variable);
    }
  }, [connection, drive, variable]);
}
