import { CoreApp, type QueryEditorProps, type SelectableValue } from '@grafana/data';
import {
  InlineField,
  InlineFieldRow,
  InlineSwitch,
  Input,
  MultiSelect,
  RadioButtonGroup,
  Select,
  TagsInput,
} from '@grafana/ui';
import React from 'react';

import { type QueryType, alerting, kinds, limits, queryTypes } from '../contract.gen';
import { kindName } from '../view/kinds';
import type { SpecwatchDataSource } from './datasource';
import { followDashboard, type Query, type QueryMode, type SourceSettings } from './types';

interface Type {
  label: string;
  tells: string;
  suits: string; // the visualisation
  filters: ReadonlyArray<'kinds' | 'sessions' | 'specs' | 'limit' | 'since'>;
}

const condition = { suits: 'Stat or Table', filters: ['sessions', 'specs', 'limit', 'since'] } as const;

export const types: Record<QueryType, Type> = {
  events: {
    label: 'Events',
    tells: 'Table of events, newest first',
    suits: 'Table',
    filters: ['kinds', 'sessions', 'specs', 'limit'],
  },
  logs: {
    label: 'Logs',
    tells: 'Events as log lines',
    suits: 'Logs',
    filters: ['kinds', 'sessions', 'specs', 'limit'],
  },
  counts: {
    label: 'Counts',
    tells: 'Events over time, by kind',
    suits: 'Time series',
    filters: ['kinds', 'sessions', 'specs'],
  },
  outcomes: {
    label: 'Outcomes',
    tells: 'Specs started, completed, failed, timed out and ended by a usage limit in the range',
    suits: 'Stat',
    filters: ['sessions', 'specs'],
  },
  durations: {
    label: 'Durations',
    tells: 'Attempts at specs and how long they took',
    suits: 'Table',
    filters: ['sessions', 'specs', 'limit'],
  },
  sessions: { label: 'Sessions', tells: 'Sessions as they are now', suits: 'Table', filters: ['sessions'] },
  overview: {
    label: 'Overview',
    tells: 'Sessions and specs as they are now, counted over all sessions',
    suits: 'Stat',
    filters: ['sessions'],
  },
  timeline: {
    label: 'Timeline',
    tells: 'Attempts at specs over time',
    suits: 'State timeline',
    filters: ['sessions', 'specs', 'limit'],
  },
  usage: {
    label: 'Usage',
    tells: 'Cost and tokens of each spec in the range, the most expensive first',
    suits: 'Table',
    filters: ['kinds', 'sessions', 'specs', 'limit'],
  },
  usage_over_time: {
    label: 'Usage over time',
    tells: 'Cost and tokens over time',
    suits: 'Time series',
    filters: ['kinds', 'sessions', 'specs'],
  },
  nights: {
    label: 'Nights',
    tells: 'Counts from noon to noon, a row for each night',
    suits: 'Table',
    filters: ['sessions', 'specs', 'limit'],
  },
  specs: {
    label: 'Specs',
    tells: 'Specs over all their attempts: how often they failed, changed and how long they take',
    suits: 'Table',
    filters: ['sessions', 'specs', 'limit'],
  },
  requests: {
    label: 'Requests',
    tells: 'Requests for a person, their answers and the time until the answer',
    suits: 'Table',
    filters: ['sessions', 'specs', 'limit'],
  },
  delivery: {
    label: 'Delivery',
    tells: 'Health of the data source’s own reader, as it is now',
    suits: 'Stat',
    filters: [],
  },
  promises: {
    label: 'Promises',
    tells: 'Properties that viewers rely on, and whether each holds now',
    suits: 'Table',
    filters: [],
  },
  timed_out: {
    label: 'Timed out',
    tells: 'Specs that timed out and have not started again; seconds since the timeout',
    ...condition,
  },
  waiting: {
    label: 'Waiting',
    tells: 'Intervention requests without an answer; seconds since the request',
    ...condition,
  },
  heartbeat_age: {
    label: 'Heartbeat age',
    tells: 'Sessions with open specs, and specs whose own heartbeats have ended; seconds since the last heartbeat',
    ...condition,
  },
  idle: {
    label: 'Idle',
    tells: 'Specs whose heartbeats continue without a sign of work; seconds since the last sign',
    ...condition,
  },
  failure_streak: {
    label: 'Failure streak',
    tells: 'Sessions whose last specs failed or timed out, and how many in a row',
    ...condition,
  },
};

const canAlert = (type: QueryType): boolean => (alerting as readonly QueryType[]).includes(type);

const modes: Array<SelectableValue<QueryMode>> = [
  {
    value: followDashboard,
    label: 'Follow the dashboard',
    description: 'Live while the variable specwatch_mode is "websocket"',
  },
  { value: 'live', label: 'Live', description: 'Runs again when an event arrives' },
  {
    value: 'polling',
    label: 'Polling',
    description: 'Runs at the interval of the refresh picker, or of your settings',
  },
];

// FieldProps is what each field gets; change stores a part of the query and runs it.
interface FieldProps {
  query: Query;
  queryType: QueryType;
  change: (part: Partial<Query>) => void;
}

export function QueryEditor({
  query,
  onChange,
  onRunQuery,
  app,
}: QueryEditorProps<SpecwatchDataSource, Query, SourceSettings>) {
  const change = (part: Partial<Query>) => {
    onChange({ ...query, ...part });
    onRunQuery();
  };
  const queryType = query.queryType ?? 'events';
  const field: FieldProps = { query, queryType, change };
  const has = (filter: Type['filters'][number]) => types[queryType].filters.includes(filter);
  const inRule = app === CoreApp.UnifiedAlerting || app === CoreApp.CloudAlerting;
  // Explore has no dashboard to follow, and a Live button of its own; rules
  // are evaluated by the server.
  const choosesMode = !inRule && app !== CoreApp.Explore;
  return (
    <>
      <InlineFieldRow>
        <QueryTypeField {...field} inRule={inRule} />
        {choosesMode && <ModeField {...field} />}
      </InlineFieldRow>
      <Description queryType={queryType} />
      <InlineFieldRow>
        {has('kinds') && <KindsField {...field} />}
        {has('limit') && <LimitField {...field} />}
        {has('since') && <SinceField {...field} />}
      </InlineFieldRow>
      <InlineFieldRow>
        {has('sessions') && <NamesField {...field} of="sessions" labelWidth={14} />}
        {has('specs') && <NamesField {...field} of="specs" labelWidth={10} />}
      </InlineFieldRow>
    </>
  );
}

function QueryTypeField({ queryType, change, inRule }: FieldProps & { inRule: boolean }) {
  return (
    <InlineField label="Query" labelWidth={14}>
      <Select<QueryType>
        aria-label="Query"
        width={26}
        value={queryType}
        options={queryTypes
          .filter((value) => !inRule || canAlert(value) || value === queryType)
          .map((value) => ({ value, label: types[value].label, description: types[value].tells }))}
        onChange={(v) => change({ queryType: v.value })}
      />
    </InlineField>
  );
}

function ModeField({ query, change }: FieldProps) {
  return (
    <InlineField label="Mode" labelWidth={10}>
      <RadioButtonGroup<QueryMode>
        value={query.mode ?? followDashboard}
        options={modes}
        onChange={(mode) => change({ mode })}
      />
    </InlineField>
  );
}

function Description({ queryType }: { queryType: QueryType }) {
  const { tells, suits } = types[queryType];
  return (
    <p style={{ margin: '0 0 4px', opacity: 0.8 }}>
      {tells}. Visualization: {suits}.{' '}
      {canAlert(queryType) ? 'Can be used in alert rules.' : 'Cannot be used in alert rules: they compare numbers.'}
    </p>
  );
}

function KindsField({ query, change }: FieldProps) {
  return (
    <InlineField label="Kinds" labelWidth={14} tooltip="None means all; a variable such as $kind may be used">
      <MultiSelect<string>
        aria-label="Kinds"
        width={40}
        placeholder="all"
        allowCustomValue
        value={query.kinds ?? []}
        options={kinds.map((value) => ({ value, label: kindName(value), description: value }))}
        onChange={(list) => change({ kinds: list.map((v) => v.value!) as Query['kinds'] })}
      />
    </InlineField>
  );
}

function LimitField({ query, queryType, change }: FieldProps) {
  const most = queryType === 'timeline' ? limits.timelineSpecs : limits.pageMax;
  const usual = Math.min(limits.rowsDefault, most);
  return (
    <InlineField
      label="Limit"
      labelWidth={10}
      tooltip={queryType === 'timeline' ? `Specs, at most ${most}` : `Rows, at most ${most}`}
    >
      <Input
        key={queryType} // A new input, as defaultValue is read only once.
        aria-label="Limit"
        type="number"
        width={12}
        min={1}
        max={most}
        defaultValue={Math.min(query.limit ?? usual, most)}
        onBlur={({ currentTarget: { value, valueAsNumber } }) =>
          change({ limit: value === '' ? usual : Math.min(Math.max(Math.round(valueAsNumber), 1), most) })
        }
      />
    </InlineField>
  );
}

function SinceField({ query, change }: FieldProps) {
  return (
    <InlineField label="Since" labelWidth={10} tooltip="The time of the event, in ms since 1970, instead of the number">
      <InlineSwitch
        aria-label="Since"
        value={query.since ?? false}
        onChange={(e) => change({ since: e.currentTarget.checked })}
      />
    </InlineField>
  );
}

function NamesField({ query, change, of, labelWidth }: FieldProps & { of: 'sessions' | 'specs'; labelWidth: number }) {
  const variable = of.slice(0, -1);
  return (
    <InlineField
      label={of === 'sessions' ? 'Sessions' : 'Specs'}
      labelWidth={labelWidth}
      tooltip={`None means all; variables such as $${variable} may be used`}
    >
      <TagsInput
        placeholder="all, or a name and Enter"
        width={40}
        tags={query[of] ?? []}
        onChange={(names) => change({ [of]: names })}
      />
    </InlineField>
  );
}
