import {
  type AnnotationQuery,
  CoreApp,
  type DataFrame,
  type DataQueryRequest,
  type DataQueryResponse,
  type DataSourceInstanceSettings,
  LoadingState,
  type MetricFindValue,
  type ScopedVars,
  type SupplementaryQueryOptions,
  SupplementaryQueryType,
  type TimeRange,
  dateMath,
  rangeUtil,
} from '@grafana/data';
import { DataSourceWithBackend, getGrafanaLiveSrv, getTemplateSrv } from '@grafana/runtime';
import { type Observable, concat, concatMap, delay, filter, map, merge, of } from 'rxjs';

import { type QueryType, conditions } from '../contract.gen';
import { annotationOf, asText } from './annotations';
import { askAgain, failed } from './asking';
import { type AdHocFilter, filterKeys, filterKinds, narrowed } from './filters';
import { type Span, changes, polls, refreshes } from './live';
import { menu } from './menu';
import { types } from './QueryEditor';
import { followDashboard, type Query, type SourceSettings } from './types';
import { expand } from './variables';

const drawn = 100; // ms in which Grafana draws an answer

export class SpecwatchDataSource extends DataSourceWithBackend<Query, SourceSettings> {
  annotations = {
    prepareAnnotation: (annotation: AnnotationQuery<Query>): AnnotationQuery<Query> => ({
      ...annotation,
      target: {
        refId: 'Anno',
        queryType: 'events',
        kinds: ['intervention_request', 'timeout_triggered', 'spec_failed'],
        ...annotation.target,
      },
      mappings: {
        time: { value: 'time' },
        title: { value: 'kind' },
        text: { value: 'spec' },
        tags: { value: 'session' },
        ...annotation.mappings,
      },
    }),
  };

  constructor(settings: DataSourceInstanceSettings<SourceSettings>) {
    super(settings);
  }

  // A new panel is a time series, and alert rules need a number.
  getDefaultQuery(app: CoreApp): Partial<Query> {
    switch (app) {
      case CoreApp.Explore:
        return { queryType: 'logs', mode: 'polling' };
      case CoreApp.UnifiedAlerting:
      case CoreApp.CloudAlerting:
        return { queryType: 'timed_out', mode: 'polling' };
      default:
        return { queryType: 'counts', mode: followDashboard };
    }
  }

  applyTemplateVariables(query: Query, scoped: ScopedVars, filters?: AdHocFilter[]): Query {
    const fill = (names?: string[]): string[] => expand(getTemplateSrv(), names, scoped);
    const filled = {
      ...query,
      kinds: fill(query.kinds) as Query['kinds'],
      sessions: fill(query.sessions),
      specs: fill(query.specs),
    };
    return narrowed(filled, types[query.queryType ?? 'events']?.filters ?? [], filters);
  }

  // getTagKeys and getTagValues fill the menus of ad-hoc filters.
  async getTagKeys(): Promise<MetricFindValue[]> {
    return filterKeys.map((text) => ({ text }));
  }

  async getTagValues({ key }: { key: string }): Promise<MetricFindValue[]> {
    const names = key === 'kind' ? filterKinds : await menu(this.uid, `${key}s`);
    return names.map((text) => ({ text }));
  }

  // Explore gets the queries of a panel without the variables of the dashboard, and
  // has a range of its own.
  interpolateVariablesInQueries(queries: Query[], scoped: ScopedVars, filters?: AdHocFilter[]): Query[] {
    return queries.map((query) => ({
      ...this.applyTemplateVariables(query, scoped, filters),
      mode: 'polling',
      days: undefined,
    }));
  }

  getSupportedSupplementaryQueryTypes = (): SupplementaryQueryType[] => [SupplementaryQueryType.LogsVolume];

  // getSupplementaryQuery returns the query for the graph above the log lines in
  // Explore.
  getSupplementaryQuery({ type }: SupplementaryQueryOptions, query: Query): Query | undefined {
    return type === SupplementaryQueryType.LogsVolume && query.queryType === 'logs' && !query.hide
      ? { ...query, refId: `log-volume-${query.refId}`, queryType: 'counts', levels: true, mode: 'polling' }
      : undefined;
  }

  getSupplementaryRequest(
    type: SupplementaryQueryType,
    request: DataQueryRequest<Query>
  ): DataQueryRequest<Query> | undefined {
    const targets = request.targets.flatMap((query) => this.getSupplementaryQuery({ type }, query) ?? []);
    return targets.length > 0 ? { ...request, liveStreaming: false, targets } : undefined;
  }

  filterQuery(query: Query): boolean {
    return !query.hide;
  }

  query(asked: DataQueryRequest<Query>): Observable<DataQueryResponse> {
    const request = inZone(overDays(asked));
    const annotation = annotationOf(request);
    if (annotation) {
      // Grafana waits for the end of the answer before it draws any.
      return super.query(request).pipe(
        map((response) => ({
          ...response,
          data: response.data.map((frame) => asText(frame as DataFrame, annotation.mappings)),
        }))
      );
    }
    const plan = this.plan(request);
    if (!plan) {
      return super.query(request);
    }
    const key = `specwatch-${request.panelId ?? request.app}`;
    let last: DataQueryResponse | undefined;
    return askAgain(plan.hints, () => super.query(atNow(request))).pipe(
      concatMap((response) => {
        if (failed(response)) {
          return of({
            ...(last ?? response),
            key,
            error: response.error,
            errors: response.errors,
            state: LoadingState.Error,
          });
        }
        const first = last === undefined && plan.state === LoadingState.Streaming;
        last = response;
        const answer = { ...response, key, state: plan.state };
        // While a refresh loads, Grafana 11 blanks a panel that was never drawn as done.
        return first ? concat(of({ ...answer, state: LoadingState.Done }), of(answer).pipe(delay(drawn))) : of(answer);
      })
    );
  }

  // plan returns what makes a query run again; undefined: Grafana runs it.
  private plan(request: DataQueryRequest<Query>): { hints: Observable<unknown>; state: LoadingState } | undefined {
    if (request.liveStreaming) {
      // Explore's own button
      return { hints: changes(this.uid), state: LoadingState.Streaming };
    }
    const modes = request.targets.map((target) =>
      getTemplateSrv().replace(target.mode ?? followDashboard, request.scopedVars)
    );
    if (modes.some((mode) => mode === 'live' || mode === 'websocket') && getGrafanaLiveSrv()) {
      const events = changes(this.uid);
      if (hasEnded(request)) {
        return { hints: events.pipe(filter((span) => overlaps(span, request.range))), state: LoadingState.Streaming };
      }
      return { hints: ages(request) ? merge(events, polls()) : events, state: LoadingState.Streaming };
    }
    if (modes.includes('manual')) {
      return { hints: refreshes(), state: LoadingState.Done };
    }
    // A refresh interval that the address sets polls in only one of Grafana's two
    // renderers. Past time ranges are not polled.
    return modes.includes('polling') && onDashboard(request) && !hasEnded(request)
      ? { hints: polls(), state: LoadingState.Done }
      : undefined;
  }

  // metricFindQuery fills variables: "sessions", "specs", "specs(session)" and
  // "kinds". If it contains $__searchFilter, Grafana runs it again with the text
  // that the user types into the menu.
  async metricFindQuery(
    query: string | { query?: string },
    options?: { scopedVars?: ScopedVars; searchFilter?: string }
  ): Promise<MetricFindValue[]> {
    const text = (typeof query === 'string' ? query : (query.query ?? '')).trim() || 'sessions';
    const [, name, list] = /^(sessions|specs|kinds)(?:\((.*)\))?$/.exec(text) ?? [];
    if (!name) {
      throw new Error(
        'A Specwatch variable is one of: sessions, specs, specs($session), kinds; with $__searchFilter as the last argument, the menu searches on the server.'
      );
    }
    const scoped = options?.scopedVars ?? {};
    const typed = options?.searchFilter ?? (scoped.__searchFilter?.value as string | undefined);
    const [, argument, search] = /^(.*?)(?:,?\s*(\$__searchFilter))?$/.exec((list ?? '').trim()) ?? [];
    const session = expand(getTemplateSrv(), argument ? [argument] : [], scoped);
    const found = await menu(this.uid, name, {
      ...(session.length > 0 && { session }),
      ...(search && typed && { search: typed }),
    });
    return found.map((value) => ({ text: value }));
  }
}

// overDays gives a query with days its own range, which ends now. The setting of
// Grafana's panels for this has no effect under an absolute range.
function overDays(request: DataQueryRequest<Query>): DataQueryRequest<Query> {
  const days = request.targets[0]?.days;
  if (!days) {
    return request;
  }
  const range = rangeUtil.convertRawToRange({ from: `now-${days}d`, to: 'now' }, request.timezone);
  return { ...request, range, rangeRaw: range.raw };
}

// inZone adds the time zone of the dashboard to a query for nights, which begin at
// noon there.
function inZone(request: DataQueryRequest<Query>): DataQueryRequest<Query> {
  const zone =
    request.timezone === 'browser' || !request.timezone
      ? Intl.DateTimeFormat().resolvedOptions().timeZone
      : request.timezone === 'utc'
        ? 'UTC'
        : request.timezone;
  return {
    ...request,
    targets: request.targets.map((target) => (target.queryType === 'nights' ? { ...target, zone } : target)),
  };
}

// 'scenes' is the app in requests of Grafana 11.0's scenes renderer: it does not
// distinguish between dashboard, panel editor and panel view.
const dashboardApps: readonly string[] = [CoreApp.Dashboard, CoreApp.PanelEditor, CoreApp.PanelViewer, 'scenes'];

const onDashboard = ({ app }: DataQueryRequest<Query>): boolean => dashboardApps.includes(app);

// `always` are the query types that show the present state in any range. Answers of
// `afterwards` may change after the range, with the end of an attempt or an answer
// to a request; few change later than a day after it.
const always: readonly QueryType[] = ['sessions', 'overview', 'delivery', 'promises'];
const afterwards: readonly QueryType[] = ['durations', 'specs', 'requests', 'nights', 'timeline'];
const aDay = 86_400_000; // ms

// `aging` are the query types whose answers change as time passes without events: ages
// grow, and specs and sessions become silent.
const aging: readonly QueryType[] = [...always, ...conditions, 'durations', 'specs', 'timeline'];

const ages = (request: DataQueryRequest<Query>): boolean =>
  onDashboard(request) && request.targets.some((target) => aging.includes(target.queryType ?? 'events'));

// hasEnded reports whether the range is in the past and does not move with the
// clock, so that new events do not change the answers.
function hasEnded({ range, targets }: DataQueryRequest<Query>): boolean {
  if (typeof range.raw.to === 'string' && range.raw.to.includes('now')) {
    return false;
  }
  const types = targets.map((target) => target.queryType ?? 'events');
  const margin = types.some((type) => afterwards.includes(type)) ? aDay : 0;
  return !types.some((type) => always.includes(type)) && range.to.valueOf() + margin < Date.now();
}

const overlaps = (span: Span, range: TimeRange): boolean =>
  span.to >= range.from.valueOf() && span.from <= range.to.valueOf();

// atNow moves a relative range along with the clock, in whole seconds, so that
// viewers of the same dashboard send the same query and share the answer. A day
// begins at midnight of the dashboard's time zone.
function atNow(request: DataQueryRequest<Query>): DataQueryRequest<Query> {
  const { raw } = request.range;
  const from = dateMath.parse(raw.from, false, request.timezone);
  const to = dateMath.parse(raw.to, true, request.timezone);
  if (!from || !to) {
    return request;
  }
  const ahead = raw.to === 'now' ? 1_000 - (to.valueOf() % 1_000) : 0;
  const rounded = typeof raw.from !== 'string' || raw.from.includes('/');
  return { ...request, range: { from: rounded ? from : from.add(ahead, 'ms'), to: to.add(ahead, 'ms'), raw } };
}
