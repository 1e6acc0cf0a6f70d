import type { PanelProps } from '@grafana/data';
import React, { useEffect, useLayoutEffect, useMemo, useRef, useSyncExternalStore } from 'react';

import { Connection } from '../connection/connection';
import { GrafanaTransport } from '../connection/grafana';
import { type Settings, complete, remember, remembered } from '../connection/settings';
import { SpecwatchView } from '../view/SpecwatchView';
import {
  type DashboardMode,
  type SceneNode,
  dashboardMode,
  dashboardModeOf,
  driveDashboard,
  linkedMode,
  refreshDashboard,
  watchDashboard,
} from './dashboard';

export interface Options extends Settings {
  driveDashboard: boolean;
}

const pluginId = 'specwatch-events-datasource';

// The events come from the connection module and not from the panel's query,
// because Grafana cuts and clears the buffer of a panel. The query only names the
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
    const settings = complete(
      remembered(),
      complete({ preferredMode, pollingInterval, autoFallback, manualRefreshOnly })
    );
    const linked = drive ? linkedMode() : undefined;
    if (linked !== undefined) {
      settings.manualRefreshOnly = linked === 'manual';
    }
    return new Connection(new GrafanaTransport(uid), settings, linked === 'manual' ? undefined : linked);
  }, [uid, preferredMode, pollingInterval, autoFallback, manualRefreshOnly, drive]);
  useEffect(() => {
    connection?.start();
    return () => connection?.stop();
  }, [connection]);
  // undefined in Grafana's older renderer
  const scene = data.request?.scopedVars?.__sceneObject?.value as SceneNode | undefined;
  useDashboard(connection, drive, scene);
  if (!connection) {
    return <div style={{ padding: 16 }}>Choose a Specwatch data source in this panel’s query.</div>;
  }
  return (
    <div style={{ height }}>
      <SpecwatchView connection={connection} onSettings={remember} />
    </div>
  );
}

// useDashboard keeps the dashboard's variable and the panel's toggle the same: when
// the user changes one, it sets the other. A fallback changes neither: the queries of
// the built-in panels fall back by themselves.
function useDashboard(connection: Connection | null, drive: boolean, scene: SceneNode | undefined): void {
  const latestScene = useRef(scene);
  useLayoutEffect(() => {
    latestScene.current = scene;
  }, [scene]);
  const asked = useRef<DashboardMode | null>(null); // mode that was set and that the dashboard does not have yet
  useEffect(() => {
    if (!connection || !drive) {
      return;
    }
    let last = '';
    let refreshing = false;
    const follow = () => {
      const view = connection.snapshot();
      const mode = dashboardModeOf(view.chosen, view.settings);
      const now = `${mode} ${view.settings.pollingInterval}`;
      if (now !== last) {
        last = now;
        const before = dashboardMode();
        asked.current = before !== undefined && before !== mode ? mode : null;
        driveDashboard(mode, view.settings.pollingInterval, latestScene.current);
      }
      if (view.refreshing && !refreshing) {
        refreshDashboard();
      }
      refreshing = view.refreshing;
    };
    follow();
    return connection.subscribe(follow);
  }, [connection, drive]);
  const variable = useSyncExternalStore(watchDashboard, dashboardMode);
  useEffect(() => {
    if (!connection || !drive || variable === undefined) {
      return;
    }
    const { chosen, settings } = connection.snapshot();
    if (asked.current !== null) {
      asked.current = variable === asked.current ? null : asked.current;
    } else if (variable !== dashboardModeOf(chosen, settings)) {
      connection.configure({ ...settings, manualRefreshOnly: variable === 'manual' });
      if (variable !== 'manual') {
        connection.choose(variable);
      }
    }
  }, [connection, drive, variable]);
}
