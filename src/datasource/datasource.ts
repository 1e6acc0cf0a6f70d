import {
  type AnnotationQuery, type DataQueryRequest, type DataQueryResponse, type DataSourceInstanceSettings, LoadingState, type MetricFindValue, type ScopedVars, dateMath,
} from '@grafana/data';
import { DataSourceWithBackend, getGrafanaLiveSrv, getTemplateSrv } from '@grafana/runtime';
import { type Observable, map, startWith } from 'rxjs';

import { limits } from '../contract.gen';
import { askAgain, changes, refreshes } from './live';
import { followDashboard, type Query, type SourceSettings } from './types';

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
    const hints = this.hints(request);
    if (!hints) {
      return super.query(request);
    }
    const key = `specwatch-${request.panelId ?? request.app}`;
    let last: DataQueryResponse | undefined;
    return askAgain(hints.pipe(startWith(null)), () => super.query(atNow(request))).pipe(
      map((response) => {
        if (response.error && last) {
          return { ...last, key, error: response.error, errors: response.errors, state: LoadingState.Error };
        }
        last = response;
        return { ...response, key, state: response.error ? LoadingState.Error : LoadingState.Streaming };
      })
    );
  }

  // hints tells when to ask again; none: Grafana's refresh interval does.
  private hints(request: DataQueryRequest<Query>): Observable<unknown> | undefined {
    const modes = request.targets.map((target) => getTemplateSrv().replace(target.mode ?? followDashboard, request.scopedVars));
    if (getGrafanaLiveSrv() && modes.some((mode) => mode === 'live' || mode === 'websocket')) {
      return changes(this.uid);
    }
    return modes.includes('manual') ? refreshes() : undefined;
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
