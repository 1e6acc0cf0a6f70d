// Connection keeps a view in step with PostgreSQL, live or by polling. What it
// is doing is said by the table in machine.ts; here is what each phase does.
// It knows neither React nor Grafana: a Transport brings the events.
//
// Live: subscribe first, then fetch what lies between the own cursor and the
// stream, then pass the stream on. Batches name the cursor that they follow;
// one that follows another than the last batch shows that something is
// missing, and it is fetched by cursor. Whatever comes twice is held once.
import { EventStore } from './events';
import { type Badge, type Facts, type Hint, type Input, type Phase, fellBack, holdsBack, initial, modeOf, phases, reduce } from './machine';
import type { Batch, SpecEvent, State, Status } from './model';
import { type Mode, type Settings, startMode } from './settings';
import { Aborted, Expired, type Opened, SignInNeeded, type Transport } from './transport';

// View is what a person sees. It is a new object at each change.
export interface View {
  events: readonly SpecEvent[];
  state: State | null;
  badge: Badge;
  mode: Mode; // in effect
  chosen: Mode; // by the person; a fallback does not change it
  fallback: boolean; // polling, because live was lost
  couldBeLive: boolean; // live was lost and would work again
  switching: boolean; // the chosen mode has not delivered yet
  refreshing: boolean;
  pending: number; // new events that wait for Refresh
  updatedAt: number | null; // ms since 1970, by this machine's clock
  skew: number; // ms by which the database's clock is ahead of this machine's
  hint: Hint | null;
  restarted: boolean; // the database's history changed, and the view began afresh
  signIn: boolean;
  error: string | null;
  settings: Settings;
}

const firstRetry = 500; // ms
const lastRetry = 30_000;
const stateEvery = 1_000; // at most once, after events
const verifyEvery = 30_000; // live: states age without events, and a silent stream may be a dead one
const redrawEvery = 100; // a burst of events is drawn a few times, not once per batch

type Shown = Pick<View, 'events' | 'state'>;

// Line is one stream, from its subscription to its end.
interface Line {
  at?: string; // cursor of its last batch
  held: Batch[] | null; // batches that came while a gap is filled
  end(): void;
}

export class Connection {
  private readonly store = new EventStore();
  private facts: Facts;
  private state: State | null = null;
  private frozen: Shown | null = null; // what is shown while new events are held back
  private view: View | null = null; // null: something changed since it was made
  private refreshing = 0;
  private listeners = new Set<() => void>();
  private redraw: ReturnType<typeof setTimeout> | null = null;

  private cursor: string | undefined; // everything up to here is held
  private line: Line | null = null;
  private failures = { stream: 0, polls: 0 }; // in a row
  private timers = new Map<string, ReturnType<typeof setTimeout>>();
  private asking = new AbortController(); // of what the phase asks for
  private reading: Promise<unknown> = Promise.resolve(); // reads by cursor follow one another

  constructor(
    private readonly transport: Transport,
    settings: Settings,
    mode: Mode = startMode(settings)
  ) {
    this.facts = initial(settings, mode);
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  snapshot = (): View => {
    this.view ??= this.look();
    return this.view;
  };

  start = (): void => this.tell({ type: 'start' });

  stop = (): void => this.tell({ type: 'stop' });

  // choose is the person's toggle.
  choose = (mode: Mode): void => this.tell({ type: 'choose', mode });

  // configure takes the person's settings; another preferred mode is a choice.
  configure(settings: Settings): void {
    const before = this.facts.settings;
    this.tell({ type: 'configure', settings });
    const mode = startMode(settings);
    if (settings.preferredMode !== before.preferredMode && mode !== this.facts.mode) {
      this.choose(mode);
    } else if (this.polls && settings.pollingInterval !== before.pollingInterval) {
      this.pollIn(settings.pollingInterval * 1_000);
    }
  }

  // refresh asks the database now, whatever the mode, and shows what is held.
  async refresh(): Promise<void> {
    this.refreshing++;
    this.changed();
    try {
      const added = await this.read();
      if (this.polls) {
        this.tell({ type: 'answered', added });
      }
      this.tell({ type: 'refreshed', at: Date.now() });
      this.tell({ type: 'retry' }); // the link works
    } catch (error) {
      this.failed(error, 'polls');
    } finally {
      this.refreshing--;
      this.changed();
    }
  }

  // signedIn tries again after the person has given a token.
  signedIn = (): void => this.tell({ type: 'signedIn' });

  // dismiss waves the hint, or the note of a fresh start, away.
  dismiss = (): void => this.tell({ type: 'dismissed' });

  // hide and appear tell whether anybody can see the view.
  hide = (): void => this.tell({ type: 'hidden', at: Date.now() });
  appear = (): void => this.tell({ type: 'shown', at: Date.now() });

  // wake tells that the device slept, or that its network is back: what was
  // known of the connection is no longer sure.
  wake(): void {
    const was = this.facts.phase;
    this.failures = { stream: 0, polls: 0 };
    this.tell({ type: 'woke' });
    if (this.polls) {
      this.pollIn(0);
    }
    if (phases[this.facts.phase].probes) {
      this.probeIn(0);
    }
    if (was === 'live' && this.line) {
      void this.fill(this.line);
    }
  }

  // --- the machine

  // tell lets the machine take a step, and does what the new phase asks for.
  private tell(input: Input): void {
    const before = this.facts;
    this.facts = reduce(before, input);
    if (holdsBack(this.facts) !== holdsBack(before) || input.type === 'refreshed') {
      this.frozen = holdsBack(this.facts) ? this.held() : null;
    }
    if (this.facts.phase !== before.phase) {
      this.enter(before.phase, this.facts.phase);
    }
    if (this.facts !== before) {
      this.changed(input.type === 'delivered' ? redrawEvery : 0);
    }
  }

  private enter(from: Phase, to: Phase): void {
    const was = phases[from];
    const is = phases[to];
    this.cancel('retry');
    if (was.runs !== is.runs || was.probes !== is.probes) {
      this.hangUp();
      this.cancel('probe');
    }
    if (was.runs !== is.runs) {
      this.asking.abort();
      this.asking = new AbortController();
      this.cancel('poll', 'verify', 'state');
      if (is.runs === 'stream') {
        this.join();
      } else if (is.runs === 'polls') {
        void this.poll();
      }
    }
    if (is.probes && !was.probes) {
      this.probeIn(this.backoff('stream'));
    }
    if (to === 'lost') {
      this.after('retry', this.backoff('stream'), () => this.tell({ type: 'retry' }));
    }
    if (to === 'live') {
      this.failures.stream = 0;
      this.after('verify', verifyEvery, () => this.verify());
    }
  }

  private get polls(): boolean {
    return phases[this.facts.phase].runs === 'polls';
  }

  // --- polling

  private async poll(): Promise<void> {
    const { signal } = this.asking;
    let pause = this.facts.settings.pollingInterval * 1_000;
    try {
      const added = await this.read();
      this.failures.polls = 0;
      this.tell({ type: 'answered', added });
    } catch (error) {
      if (signal.aborted) {
        return;
      }
      this.failed(error, 'polls');
      pause = Math.min(pause, this.backoff('polls'));
    }
    if (!signal.aborted && this.polls) {
      this.pollIn(pause);
    }
  }

  private pollIn(ms: number): void {
    this.after('poll', ms, () => void this.poll());
  }

  // read reads on from the cursor until there is no more, and returns how many
  // events were new. Reads do not overlap: each begins where the last ended.
  private read(): Promise<number> {
    const { signal } = this.asking;
    const mine = this.reading.then(() => this.readOn(signal));
    this.reading = mine.catch(() => undefined);
    return mine;
  }

  private async readOn(signal: AbortSignal): Promise<number> {
    let added = 0;
    for (let more = true; more; ) {
      if (signal.aborted) {
        throw new Aborted();
      }
      const asked = Date.now();
      let status: Status;
      try {
        status = await this.transport.poll(this.cursor, signal);
      } catch (error) {
        if (!(error instanceof Expired) || signal.aborted) {
          throw error;
        }
        this.forget();
        status = error.fresh;
      }
      if (signal.aborted) {
        throw new Aborted();
      }
      this.cursor = status.cursor;
      more = status.more;
      // The database looked at its clock somewhere between question and answer.
      const skew = Date.parse(status.timestamp) - (asked + Date.now()) / 2;
      added += this.take(status.events, status.state, skew);
    }
    return added;
  }

  // --- live

  // dial opens a stream. Once it is hung up, it is not heard any more.
  private dial(on: { opened(line: Line, opened: Opened): void; batch(line: Line, batch: Batch): void; closed(reason: Error): void }): void {
    this.hangUp();
    const line: Line = { held: null, end: () => undefined };
    const mine = () => this.line === line;
    this.line = line;
    line.end = this.transport.live(this.cursor, {
      opened: (opened) => mine() && on.opened(line, opened),
      batch: (batch) => mine() && on.batch(line, batch),
      closed: (reason) => mine() && on.closed(reason),
    });
  }

  private join(): void {
    this.dial({
      opened: (line, opened) => this.opened(line, opened),
      batch: (line, batch) => this.receive(line, batch),
      closed: (reason) => this.closed(reason),
    });
  }

  private opened(line: Line, opened: Opened): void {
    if (opened.expired) {
      this.forget();
    }
    line.at = opened.cursor;
    const { state } = opened;
    // A view that begins wants more of the past than the stream brings.
    const filled = opened.complete && state !== undefined && this.cursor !== undefined;
    if (filled) {
      this.cursor = opened.cursor;
    }
    this.tell({ type: 'opened' });
    if (opened.complete && state) {
      this.take(opened.events ?? [], state);
    }
    if (filled) {
      this.tell({ type: 'filled' });
    } else {
      void this.fill(line);
    }
  }

  private receive(line: Line, batch: Batch): void {
    if (line.held) {
      line.held.push(batch);
    } else if (batch.from !== line.at) {
      line.held = [batch];
      this.tell({ type: 'gap' });
      void this.fill(line);
    } else {
      line.at = this.cursor = batch.cursor;
      this.take(batch.events, null);
      if (batch.events.length > 0 && !this.timers.has('state')) {
        this.after('state', stateEvery, () => this.verify());
      }
    }
  }

  // fill fetches what is missing while batches wait, then takes them. What was
  // fetched holds all that lies before the first of them, because the database
  // was asked after it came.
  private async fill(line: Line): Promise<void> {
    line.held ??= [];
    try {
      await this.read();
    } catch (error) {
      if (this.line === line) {
        this.failed(error, 'stream');
      }
      return;
    }
    if (this.line !== line) {
      return;
    }
    const batches = line.held;
    line.held = null;
    if (batches.length > 0) {
      line.at = batches[0].from;
    }
    this.tell({ type: 'filled' });
    batches.forEach((batch) => this.line === line && this.receive(line, batch));
  }

  // verify asks the database beside the stream: for the state, which is not
  // streamed, and for whether the stream told everything. Twice no answer, and
  // the link is taken for dead, though the stream has not noticed.
  private async verify(again = false): Promise<void> {
    const { line } = this;
    this.cancel('verify', 'state');
    let pause = verifyEvery;
    let failed = false;
    try {
      await this.read();
    } catch (error) {
      if (this.line !== line || error instanceof Aborted) {
        return;
      }
      if (again || error instanceof SignInNeeded) {
        this.closed(error instanceof SignInNeeded ? error : new Error('The live connection went silent.'));
        return;
      }
      failed = true;
      pause = firstRetry;
    }
    if (line && this.line === line) {
      this.after('verify', pause, () => this.verify(failed));
    }
  }

  private closed(reason: Error): void {
    this.hangUp();
    this.failures.stream++;
    this.tell(reason instanceof SignInNeeded ? { type: 'refused', reason: reason.message } : { type: 'closed', at: Date.now(), reason: reason.message });
  }

  private hangUp(): void {
    this.line?.end();
    this.line = null;
  }

  // probe opens a stream to see whether it works, and closes it.
  private probe(): void {
    this.dial({
      opened: () => {
        this.hangUp();
        this.tell({ type: 'probed' });
      },
      batch: () => undefined,
      closed: () => {
        this.hangUp();
        this.failures.stream++;
        this.probeIn(this.backoff('stream'));
      },
    });
  }

  private probeIn(ms: number): void {
    this.after('probe', ms, () => this.probe());
  }

  // --- what both share

  private take(events: readonly SpecEvent[], state: State | null, skew?: number): number {
    const added = this.store.add(events);
    this.state = state ?? this.state;
    this.tell({ type: 'delivered', at: Date.now(), added, skew });
    return added;
  }

  private held = (): Shown => ({ events: this.store.list(), state: this.state });

  private forget(): void {
    this.store.clear();
    this.cursor = undefined;
    this.state = null;
    this.tell({ type: 'expired' });
  }

  private failed(error: unknown, of: 'stream' | 'polls'): void {
    if (!(error instanceof Aborted)) {
      const reason = error instanceof Error ? error.message : String(error);
      this.failures[of]++;
      this.tell({ type: error instanceof SignInNeeded ? 'refused' : 'failed', reason });
    }
  }

  // backoff doubles with every failure and is spread, so that many viewers do
  // not come back in the same moment ("full jitter").
  private backoff(of: 'stream' | 'polls'): number {
    const most = Math.min(lastRetry, firstRetry * 2 ** Math.min(this.failures[of], 10));
    return firstRetry / 2 + Math.random() * most;
  }

  private after(name: string, ms: number, run: () => void): void {
    this.cancel(name);
    this.timers.set(
      name,
      setTimeout(() => {
        this.timers.delete(name);
        run();
      }, ms)
    );
  }

  private cancel(...names: string[]): void {
    for (const name of names) {
      clearTimeout(this.timers.get(name));
      this.timers.delete(name);
    }
  }

  // changed tells the listeners, at once or a little later.
  private changed(within = 0): void {
    this.view = null;
    if (within > 0) {
      this.redraw ??= setTimeout(() => this.changed(), within);
      return;
    }
    clearTimeout(this.redraw ?? undefined);
    this.redraw = null;
    this.listeners.forEach((listener) => listener());
  }

  private look(): View {
    const f = this.facts;
    return {
      ...(this.frozen ?? this.held()),
      badge: phases[f.phase].badge, mode: modeOf(f), chosen: f.mode, fallback: fellBack(f), couldBeLive: f.phase === 'offer',
      switching: f.switching, refreshing: this.refreshing > 0, pending: f.pending, updatedAt: f.updatedAt, skew: f.skew, hint: f.hint,
      restarted: f.restarted, signIn: f.phase === 'refused', error: f.error, settings: f.settings,
    };
  }
}
