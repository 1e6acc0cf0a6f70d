import {
  type AnnotationQuery, type DataFrameJSON, type DataQueryRequest, type DataQueryResponse, type DataSourceInstanceSettings, LoadingState, type MetricFindValue, type ScopedVars, dateMath, isLiveChannelMessageEvent,
} from '@grafana/data';
import { DataSourceWithBackend, getGrafanaLiveSrv, getTemplateSrv } from '@grafana/runtime';
import { type Observable, asyncScheduler, concat, exhaustMap, filter, map, of, switchMap, throttleTime } from 'rxjs';

import { eventsChannel } from '../connection/grafana';
import { limits } from '../contract.gen';
import { followDashboard, type Query, type SourceSettings } from './types';

const atMostEvery = 500; // ms between two reads of a live query

export class SpecwatchDataSource extends DataSourceWithBackend<Query, SourceSettings> {
  annotations = {
    prepareAnnotation: (annotation: AnnotationQuery<Query>): AnnotationQuery<Query> => ({
      ...annotation,
      target: { refId: 'Anno', queryType: 'events', kinds: ['intervention_request', 'timeout_triggered', 'spec_failed'], ...annotation.target },
      mappings: { time: { value: 'time' }, title: { value: 'kind' }, text: { value: 'spec' }, tags: { value: 'session' }, ...annotation.mappings },
    }),
  };

  constructor(settings: DataSourceInstanceSettings<SourceSettings>) {
    super(settings);
  }

  getDefaultQuery(): Partial<Query> {
    return { queryType: 'events', mode: followDashboard, limit: limits.pageDefault };
  }

  applyTemplateVariables(query: Query, scoped: ScopedVars): Query {
    const fill = (list?: string[]): string[] => (list ?? []).flatMap((text) => expand(text, scoped));
    return { ...query, sessions: fill(query.sessions), specs: fill(query.specs) };
  }

  filterQuery(query: Query): boolean {
    return !query.hide;
  }

  query(request: DataQueryRequest<Query>): Observable<DataQueryResponse> {
    const read = () => super.query(request);
    const live = getGrafanaLiveSrv();
    if (!live || !request.targets.some((target) => this.isLive(target, request.scopedVars))) {
      return read();
    }
    // The stream is only a hint: at each of its frames the same query is
    // asked again, so a live panel shows exactly what a polled one shows.
    const frames = live.getStream<DataFrameJSON>(eventsChannel(this.uid)).pipe(
      filter(isLiveChannelMessageEvent),
      throttleTime(atMostEvery, asyncScheduler, { leading: true, trailing: true }),
      exhaustMap(() => super.query(atNow(request)))
    );
    return concat(of(null), frames).pipe(
      switchMap((response, i) => (i === 0 ? read() : of(response!))),
      map((response) => ({ ...response, key: `specwatch-${request.panelId ?? request.app}`, state: response.state === LoadingState.Error ? response.state : LoadingState.Streaming }))
    );
  }

  // metricFindQuery fills variables: "sessions", "specs", "specs(session)",
  // "kinds".
  async metricFindQuery(query: string | { query?: string }, options?: { scopedVars?: ScopedVars }): Promise<MetricFindValue[]> {
    const text = (typeof query === 'string' ? query : (query.query ?? '')).trim() || 'sessions';
    const [, name, argument] = /^(sessions|specs|kinds)(?:\((.*)\))?$/.exec(text) ?? [];
    if (!name) {
      throw new Error('A Specwatch variable is one of: sessions, specs, specs($session), kinds.');
    }
    const session = argument ? expand(argument, options?.scopedVars ?? {}) : [];
    const list: string[] = await this.getResource(name, session.length > 0 ? { session } : undefined);
    return list.map((value) => ({ text: value }));
  }

  private isLive(query: Query, scoped: ScopedVars): boolean {
    const mode = query.mode ?? followDashboard;
    return mode === 'live' || getTemplateSrv().replace(mode, scoped) === 'websocket';
  }
}

// expand replaces variables; one with several values becomes several texts,
// and "All" none, which means all.
function expand(text: string, scoped: ScopedVars): string[] {
  const filled = getTemplateSrv().replace(text, scoped, (value: string | string[]) => JSON.stringify(value));
  if (filled === text) {
    return text === '' ? [] : [text];
  }
  try {
    const value = JSON.parse(filled) as string | string[];
    return (Array.isArray(value) ? value : [value]).filter((v) => v !== '$__all' && v !== '');
  } catch {
    return [filled.replaceAll('"', '')];
  }
}

// atNow moves a relative range along with the clock.
function atNow(request: DataQueryRequest<Query>): DataQueryRequest<Query> {
  const { raw } = request.range;
  const from = dateMath.parse(raw.from, false);
  const to = dateMath.parse(raw.to, true);
  return from && to ? { ...request, range: { from, to, raw } } : request;
}
