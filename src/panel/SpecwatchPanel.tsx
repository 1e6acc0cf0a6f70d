import type { PanelProps } from '@grafana/data';
import { useTheme2 } from '@grafana/ui';
import React, { useEffect, useMemo } from 'react';

import { Connection } from '../connection/connection';
import { GrafanaTransport } from '../connection/grafana';
import { type Settings, complete, remember, remembered } from '../connection/settings';
import { SpecwatchView } from '../view/SpecwatchView';

export type Options = Settings;

const pluginId = 'specwatch-events-datasource';

// The events come by the connection module and not by the panel's query: a
// panel's own buffer is cut and cleared by Grafana. The query says from which
// data source.
export function SpecwatchPanel({ data, options, height }: PanelProps<Options>) {
  const theme = useTheme2();
  const source = data.request?.targets.find((target) => target.datasource?.type === pluginId)?.datasource;
  const uid = source?.uid;
  const { preferredMode, pollingInterval, autoFallback, manualRefreshOnly } = options;
  const connection = useMemo(
    () =>
      uid === undefined
        ? null
        : new Connection(new GrafanaTransport(uid), complete(remembered(), complete({ preferredMode, pollingInterval, autoFallback, manualRefreshOnly }))),
    [uid, preferredMode, pollingInterval, autoFallback, manualRefreshOnly]
  );
  useEffect(() => {
    connection?.start();
    return () => connection?.stop();
  }, [connection]);
  if (!connection) {
    return <div style={{ padding: 16 }}>Choose a Specwatch data source in this panel’s query.</div>;
  }
  return (
    <div style={{ height, overflow: 'auto' }}>
      <SpecwatchView connection={connection} dark={theme.isDark} listHeight={Math.max(220, height - 380)} onSettings={remember} />
    </div>
  );
}
