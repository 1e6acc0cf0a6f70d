import { DataSourcePlugin } from '@grafana/data';

import { ConfigEditor } from './ConfigEditor';
import { SpecwatchDataSource } from './datasource';
import { QueryEditor } from './QueryEditor';
import type { Query, SecureSettings, SourceSettings } from './types';

export const plugin = new DataSourcePlugin<SpecwatchDataSource, Query, SourceSettings, SecureSettings>(
  SpecwatchDataSource
)
  .setConfigEditor(ConfigEditor)
  .setQueryEditor(QueryEditor);
