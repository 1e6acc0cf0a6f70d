// The steps from no data source to a filled dashboard, and the check of each. It
// uses Grafana through Server only.

// Server is the part of Grafana that the checks need.
export interface Server {
  sources(): Array<{ uid: string; name: string; isDefault?: boolean }>;
  liveEnabled: boolean;
  get<T>(path: string): Promise<T>; // rejects with what Grafana answers
}

export interface Step {
  title: string;
  done: boolean | null; // null: not known before the steps above are done
  says: string;
  link?: { text: string; path: string };
  command?: string;
}

interface Failed {
  data?: { message?: string; detail?: string };
  message?: string;
}

const reason = (error: unknown): string => {
  const failed = error as Failed;
  return failed.data?.message ?? failed.data?.detail ?? failed.message ?? 'Grafana does not answer.';
};

const dashboards = { first: 'specwatch' } as const;

// steps checks each step. Of several data sources it checks the default one, or
// the first.
export async function steps(server: Server): Promise<Step[]> {
  const sources = server.sources();
  const source = sources.find((one) => one.isDefault) ?? sources.at(0);
  const later = { done: null, says: 'After the steps above.' };
  const add: Step = {
    title: 'Add the data source',
    done: source !== undefined,
    says: source
      ? sources.length > 1
        ? `${sources.length} data sources; “${source.name}” is checked here.`
        : `“${source.name}” exists.`
      : 'It connects Grafana to the PostgreSQL database with the events.',
    link: source
      ? { text: 'Settings', path: `/connections/datasources/edit/${source.uid}` }
      : { text: 'Add it', path: '/connections/datasources/specwatch-events-datasource' },
  };
  const connect = 'Read the events';
  const push = 'Push events';
  const report = 'Write events';
  const open = 'Open the dashboard';
  if (!source) {
    return [add, ...[connect, push, report, open].map((title) => ({ title, ...later }))];
  }
  const health = await server
    .get<{ status?: string; message: string }>(`/api/datasources/uid/${source.uid}/health`)
    .then(
      (answer) => ({ done: answer.status === 'OK', says: answer.message }),
      (error) => ({ done: false, says: reason(error) })
    );
  const live: Step = {
    title: push,
    done: server.liveEnabled,
    says: server.liveEnabled
      ? 'Grafana Live is on.'
      : 'Grafana Live is switched off on this server (max_connections = 0), so views poll. Everything else works.',
  };
  if (!health.done) {
    return [
      add,
      { title: connect, ...health, link: { text: 'Settings', path: `/connections/datasources/edit/${source.uid}` } },
      live,
      ...[report, open].map((title) => ({ title, ...later })),
    ];
  }
  const last = await server
    .get<{ events: Array<{ at: string; session: string }> }>(
      `/api/datasources/uid/${source.uid}/resources/status?last=1`
    )
    .then(
      ({ events }) =>
        events.length > 0
          ? { done: true, says: `The last event is of session “${events[0].session}”.` }
          : { done: false, says: 'There is no event yet.' },
      (error) => ({ done: false, says: reason(error) })
    );
  const dashboard = await server.get(`/api/dashboards/uid/${dashboards.first}`).then(
    () => ({
      done: true,
      says: 'It is part of this app.',
      link: { text: 'Open it', path: `/d/${dashboards.first}?var-datasource=${source.uid}` },
    }),
    (error) => ({
      done: false,
      says: `${reason(error)} Import it on the page of this plugin, under Dashboards.`,
      link: { text: 'Plugins', path: '/plugins/specwatch-events-app' },
    })
  );
  return [
    add,
    { title: connect, ...health },
    live,
    {
      title: report,
      ...last,
      ...(!last.done && { command: 'specwatch run --session first --spec hello -- echo hello' }),
    },
    { title: open, ...dashboard },
  ];
}
