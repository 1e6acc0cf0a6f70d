// The steps from no data source to a filled dashboard, and the check of each. It
// uses Grafana through Server only.

interface Source {
  uid: string;
  name: string;
  isDefault?: boolean;
}

// Server is the part of Grafana that the checks need.
export interface Server {
  sources(): Source[];
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

const titles = {
  add: 'Add the data source',
  connect: 'Read the events',
  push: 'Push events',
  report: 'Write events',
  open: 'Open the dashboard',
} as const;

// steps checks each step. Of several data sources it checks the default one, or
// the first.
export async function steps(server: Server): Promise<Step[]> {
  const sources = server.sources();
  const source = sources.find((one) => one.isDefault) ?? sources.at(0);
  if (!source) {
    return [missing, later(titles.connect), later(titles.push), later(titles.report), later(titles.open)];
  }
  const add = added(source, sources.length);
  const connect = await connects(server, source);
  const push = pushes(server);
  if (!connect.done) {
    return [add, connect, push, later(titles.report), later(titles.open)];
  }
  return [add, connect, push, await reports(server, source), await opens(server, source)];
}

const later = (title: string): Step => ({ title, done: null, says: 'After the steps above.' });

const settings = (source: Source) => ({ text: 'Settings', path: `/connections/datasources/edit/${source.uid}` });

const missing: Step = {
  title: titles.add,
  done: false,
  says: 'It connects Grafana to the PostgreSQL database with the events.',
  link: { text: 'Add it', path: '/connections/datasources/specwatch-events-datasource' },
};

const added = (source: Source, count: number): Step => ({
  title: titles.add,
  done: true,
  says: count > 1 ? `${count} data sources; “${source.name}” is checked here.` : `“${source.name}” exists.`,
  link: settings(source),
});

async function connects(server: Server, source: Source): Promise<Step> {
  const health = await server
    .get<{ status?: string; message: string }>(`/api/datasources/uid/${source.uid}/health`)
    .then(
      (answer) => ({ done: answer.status === 'OK', says: answer.message }),
      (error) => ({ done: false, says: reason(error) })
    );
  return { title: titles.connect, ...health, ...(!health.done && { link: settings(source) }) };
}

const pushes = (server: Server): Step => ({
  title: titles.push,
  done: server.liveEnabled,
  says: server.liveEnabled
    ? 'Grafana Live is on.'
    : 'Grafana Live is switched off on this server (max_connections = 0), so views poll. Everything else works.',
});

async function reports(server: Server, source: Source): Promise<Step> {
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
  return {
    title: titles.report,
    ...last,
    ...(!last.done && { command: 'specwatch run --session first --spec hello -- echo hello' }),
  };
}

const opens = (server: Server, source: Source): Promise<Step> =>
  server.get(`/api/dashboards/uid/${dashboards.first}`).then(
    () => ({
      title: titles.open,
      done: true,
      says: 'It is part of this app.',
      link: { text: 'Open it', path: `/d/${dashboards.first}?var-datasource=${source.uid}` },
    }),
    (error) => ({
      title: titles.open,
      done: false,
      says: `${reason(error)} Import it on the page of this plugin, under Dashboards.`,
      link: { text: 'Plugins', path: '/plugins/specwatch-events-app' },
    })
  );
