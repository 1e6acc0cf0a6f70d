// Panels that a person may want: one for each type of query.
import { type QueryType, queryTypes } from '../contract.gen';

export interface Suggestion {
  queryType: QueryType;
  explore: string; // the address of Explore with this query
  panel: object; // as Grafana keeps a panel that was copied
}

const source = (uid: string) => ({ type: 'specwatch-events-datasource', uid });

// visualizations are the ids of Grafana's own panels.
const visualizations: Partial<Record<QueryType, string>> = {
  logs: 'logs',
  counts: 'timeseries',
  outcomes: 'stat',
  overview: 'stat',
  timeline: 'state-timeline',
  delivery: 'stat',
};

export function suggestions(uid: string, titles: (type: QueryType) => string): Suggestion[] {
  return queryTypes.map((queryType) => {
    const datasource = source(uid);
    const query = { refId: 'A', datasource, queryType };
    const panes = {
      a: { datasource: uid, queries: [{ ...query, mode: 'polling' }], range: { from: 'now-24h', to: 'now' } },
    };
    return {
      queryType,
      explore: `/explore?schemaVersion=1&panes=${encodeURIComponent(JSON.stringify(panes))}`,
      panel: {
        type: visualizations[queryType] ?? 'table',
        title: titles(queryType),
        datasource,
        targets: [{ ...query, mode: 'live' }],
        gridPos: { x: 0, y: 0, w: 12, h: 8 },
        fieldConfig: { defaults: {}, overrides: [] },
        options: {},
      },
    };
  });
}
