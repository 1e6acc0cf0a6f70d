import type { DataSourceJsonData } from '@grafana/data';
import type { DataQuery } from '@grafana/data';

import type { Kind, QueryType } from '../contract.gen';

// The dashboard variable that a whole dashboard follows: `websocket`, `polling`,
// or `manual`, where data move on Refresh only.
export const modeVariable = 'specwatch_mode';

// A Specwatch panel fires this event at the window when its Refresh is pressed.
export const refreshEvent = 'specwatch-refresh';

// followDashboard is a reference to the variable and not a word of our own:
// Grafana runs a query again when a variable changes that its text names.
export const followDashboard = `$${modeVariable}` as const;

export type QueryMode = typeof followDashboard | 'live' | 'polling';

// Query is a target as pkg/datasource reads it. An empty list means all.
export interface Query extends DataQuery {
  queryType?: QueryType;
  kinds?: Kind[];
  sessions?: string[];
  specs?: string[];
  limit?: number;
  since?: boolean; // of a condition: when it came about, in ms since 1970
  mode?: QueryMode;
}

export type TLSMode = 'disable' | 'require' | 'verify-ca' | 'verify-full';

export interface SourceSettings extends DataSourceJsonData {
  database?: string;
  schema?: string;
  sslmode?: TLSMode;
}

export interface SecureSettings {
  password?: string;
  tlsCACert?: string;
  tlsClientCert?: string;
  tlsClientKey?: string;
}
