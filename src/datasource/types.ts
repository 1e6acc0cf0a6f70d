import type { DataQuery, DataSourceJsonData } from '@grafana/data';

import type { Kind, QueryType } from '../contract.gen';

// The dashboard variable with the mode of all panels: `websocket`, `polling`, or
// `manual`: updates on Refresh only.
export const modeVariable = 'specwatch_mode';

// A Specwatch panel fires this event at the window when its Refresh is pressed.
export const refreshEvent = 'specwatch-refresh';

// followDashboard refers to the variable, because Grafana runs a query again when
// a variable in its text changes.
export const followDashboard = `$${modeVariable}` as const;

export type QueryMode = typeof followDashboard | 'live' | 'polling';

// Query is a target as pkg/datasource reads it. An empty list means all.
export interface Query extends DataQuery {
  queryType?: QueryType;
  kinds?: Kind[];
  sessions?: string[];
  specs?: string[];
  limit?: number;
  since?: boolean; // of a condition: the time of the event, in ms since 1970
  zone?: string; // of nights: the time zone in which they begin and end at noon
  levels?: boolean; // of counts: by severity, as Explore draws them above log lines
  days?: number; // of the range, which then ends now whatever the dashboard's range
  mode?: QueryMode;
}

export type TLSMode = 'disable' | 'require' | 'verify-ca' | 'verify-full';

// usualTLSMode is the default, as in pkg/datasource: a server on the same machine
// seldom has a certificate.
export const usualTLSMode = (host: string, certificates: boolean): TLSMode =>
  /^(\/|(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$)/i.test(host) && !certificates ? 'disable' : 'verify-full';

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
