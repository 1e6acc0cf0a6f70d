import type { QueryEditorProps, SelectableValue } from '@grafana/data';
import { InlineField, InlineFieldRow, InlineSwitch, Input, MultiSelect, RadioButtonGroup, Select, TagsInput } from '@grafana/ui';
import React from 'react';

import { type Kind, type QueryType, conditions, kinds, limits, queryTypes } from '../contract.gen';
import { kindNames } from '../view/kinds';
import type { SpecwatchDataSource } from './datasource';
import { followDashboard, type Query, type QueryMode, type SourceSettings } from './types';

const types: Record<QueryType, [string, string]> = {
  events: ['Events', 'Table of events, newest first'],
  logs: ['Logs', 'Events as log lines'],
  counts: ['Counts', 'Events over time, by kind'],
  outcomes: ['Outcomes', 'Specs started, completed, failed, timed out in the range'],
  durations: ['Durations', 'Attempts at specs and how long they took'],
  sessions: ['Sessions', 'Sessions as they are now'],
  timeline: ['Timeline', 'For the State timeline panel'],
  delivery: ['Delivery', 'Health of the data source’s own reader, as it is now'],
  timed_out: ['Timed out', 'Specs that timed out and have not started again; seconds since. For alert rules'],
  waiting: ['Waiting', 'Interventions that nobody answered; seconds since. For alert rules'],
  heartbeat_age: ['Heartbeat age', 'Sessions with open specs; seconds since the last heartbeat. For alert rules'],
  failure_streak: ['Failure streak', 'Sessions whose last specs failed or timed out, and how many in a row. For alert rules'],
};

const modes: Array<SelectableValue<QueryMode>> = [
  { value: followDashboard, label: 'Follow the dashboard', description: 'Live while the variable specwatch_mode is "websocket"' },
  { value: 'live', label: 'Live', description: 'Asked again when an event arrives' },
  { value: 'polling', label: 'Polling', description: 'Asked at the dashboard’s refresh interval' },
];

export function QueryEditor({ query, onChange, onRunQuery }: QueryEditorProps<SpecwatchDataSource, Query, SourceSettings>) {
  const change = (part: Partial<Query>) => {
    onChange({ ...query, ...part });
    onRunQuery();
  };
  const type = query.queryType ?? 'events';
  const condition = (conditions as readonly QueryType[]).includes(type);
  const byKind = type === 'events' || type === 'logs' || type === 'counts';
  const rows = condition || type === 'events' || type === 'logs' || type === 'durations' || type === 'timeline';
  return (
    <>
      <InlineFieldRow>
        <InlineField label="Query" labelWidth={14}>
          <Select<QueryType>
            aria-label="Query" width={26} value={type}
            options={queryTypes.map((value) => ({ value, label: types[value][0], description: types[value][1] }))}
            onChange={(v) => change({ queryType: v.value })}
          />
        </InlineField>
        <InlineField label="Mode" labelWidth={10}>
          <RadioButtonGroup<QueryMode> value={query.mode ?? followDashboard} options={modes} onChange={(mode) => change({ mode })} />
        </InlineField>
      </InlineFieldRow>
      <InlineFieldRow>
        {byKind && (
          <InlineField label="Kinds" labelWidth={14} tooltip="None means all">
            <MultiSelect<Kind>
              aria-label="Kinds" width={40} placeholder="all" value={query.kinds ?? []}
              options={kinds.map((value) => ({ value, label: kindNames[value], description: value }))}
              onChange={(list) => change({ kinds: list.map((v) => v.value!) })}
            />
          </InlineField>
        )}
        {rows && (
          <InlineField label="Limit" labelWidth={10} tooltip={`Rows, at most ${limits.pageMax}`}>
            <Input
              aria-label="Limit" type="number" width={12} min={1} max={limits.pageMax} defaultValue={query.limit ?? limits.pageDefault}
              onBlur={(e) => change({ limit: Math.min(Math.max(Math.round(Number(e.currentTarget.value)) || limits.pageDefault, 1), limits.pageMax) })}
            />
          </InlineField>
        )}
        {condition && (
          <InlineField label="Since" labelWidth={10} tooltip="When it came about, in ms since 1970, instead of the number">
            <InlineSwitch aria-label="Since" value={query.since ?? false} onChange={(e) => change({ since: e.currentTarget.checked })} />
          </InlineField>
        )}
      </InlineFieldRow>
      <InlineFieldRow>
        <InlineField label="Sessions" labelWidth={14} tooltip="None means all; variables such as $session may be used">
          <TagsInput placeholder="all, or a name and Enter" width={40} tags={query.sessions ?? []} onChange={(sessions) => change({ sessions })} />
        </InlineField>
        {type !== 'sessions' && type !== 'delivery' && (
          <InlineField label="Specs" labelWidth={10} tooltip="None means all; variables such as $spec may be used">
            <TagsInput placeholder="all, or a name and Enter" width={40} tags={query.specs ?? []} onChange={(specs) => change({ specs })} />
          </InlineField>
        )}
      </InlineFieldRow>
    </>
  );
}
