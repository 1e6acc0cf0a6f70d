import type { DataSourceJsonData } from '@grafana/data';
import type { DataQuery } from '@grafana/data';

import type { Kind, QueryType } from '../contract.gen';

export type QueryMode = 'dashboard' | 'live' | 'polling';

// Query is a target as pkg/datasource reads it. An empty list means all.
export interface Query extends DataQuery {
  queryType?: QueryType;
  kinds?: Kind[];
  sessions?: string[];
  specs?: string[];
  limit?: number;
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

// The dashboard variable that a whole dashboard follows.
export const modeVariable = 'specwatch_mode';
