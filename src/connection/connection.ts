// Connection keeps the events of a view up to date, live or by polling. The
// table in machine.ts defines the phases; this file does what each phase needs.
// It does not depend on React or Grafana: a Transport delivers the events.
//
// Live: subscribe first, then fetch the events between the cursor and the start
// of the stream, then show the stream. Each batch names the cursor that it
// follows. If it is not the cursor of the last batch, events are missing and are
// fetched by cursor. Events are merged by id, so repeated ones are stored once.
import { EventStore } from './events';
import {
  type Badge,
  type Facts,
  type Hint,
  type Input,
  type Phase,
  fellBack,
  holdsBack,
  initial,
  modeOf,
  phases,
  reduce,
} from './machine';
import type { Answer, Batch, SpecEvent, State, Status, Waiting } from './model';
import { backoff, firstRetry } from './patience';
import { type Mode, type Settings, startMode } from './settings';
import { Aborted, Expired, type Opened, Refusal, SignInNeeded, type Transport, isBehind } from './transport';

// View is the data that the user interface shows: a new object at each change.
export interface View {
  events: readonly SpecEvent[];
  state: State | null;
  badge: Badge;
  mode: Mode; // in effect
  chosen: Mode; // by the user; a fallback does not change it
  fallback: boolean; // polling, because live was lost
  worked: boolean; // Live was reached once
  lost: string | null; // why the stream is not open
  couldBeLive: boolean; // live was lost and would work again
  switching: boolean; // the chosen mode has not delivered events yet
  refreshing: boolean;
  pending: number; // new events that wait for Refresh
  updatedAt: number | null; // ms since 1970, by this machine's clock
  skew: number; // ms by which the database's clock is ahead of this machine's
  hint: Hint | null;
  restarted: boolean; // the cursor had expired, and the view started again
  history: number; // number of restarts: after each, ids name other events
  signIn: boolean;
  error: string | null;
  settings: Settings;
}

const stateEvery = 1_000; // at most once, after events
const verifyEvery = 30_000; // live: ages change without events, and a silent stream may be dead
const redrawEvery = 100; // at most once, so that a burst of events is not drawn once per batch
const heldBatches = 1_000; // while a gap is filled

type Shown = Pick<View, 'events' | 'state'>;

// Line is one stream, from its subscription to its end.
interface Line {
  at?: string; // cursor of the last batch
  held: Batch[] | null; // batches that arrive while missing events are fetched
  tells: boolean; // the stream contains the state, so it need not be polled
  end(): void;
}

export class Connection {
  private readonly store = new EventStore();
  private facts: Facts;
  private state: State | null = null;
  private frozen: Shown | null = null; // what is shown while new events are held back
  private view: View | null = null; // null: something has changed since
  private refreshing = 0;
  private listeners = new Set<() => void>();
  private redraw: ReturnType<typeof setTimeout> | null = null;

  private cursor: string | undefined; // everything up to it has been received
  private history = 0;
  private line: Line | null = null;
  private failures = { stream: 0, polls: 0 }; // in a row
  private timers = new Map<string, ReturnType<typeof setTimeout>>();
  private asking = new AbortController(); // of the requests of the current phase
  private reading: Promise<unknown> = Promise.resolve(); // reads by cursor run one after the other

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

  // choose handles the toggle.
  choose = (mode: Mode): void => this.tell({ type: 'choose', mode });

  // configure applies saved settings. Another preferred mode works like the
  // toggle.
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

  // refresh polls now, in any mode, and shows events that wait for Refresh.
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

  // answer writes the user's answer to a request. The user interface asks for
  // the token if the transport rejects with TokenNeeded.
  async answer(request: Waiting, answer: Answer, token?: string): Promise<void> {
    await this.transport.answer!(request, answer, token);
    if (this.polls) {
      this.pollIn(0);
    }
  }

  // cannotAnswer says why the user cannot answer; undefined: they can.
  cannotAnswer = async (): Promise<string | undefined> =>
    this.transport.answer ? this.transport.readOnly?.() : 'Requests cannot be answered here.';

  // signedIn tries again after the user has entered a token.
  signedIn = (): void => this.tell({ type: 'signedIn' });

  // dismiss removes the hint, or the note about a restart.
  dismiss = (): void => this.tell({ type: 'dismissed' });

  // hide and appear report whether the page is visible.
  hide = (): void => this.tell({ type: 'hidden', at: Date.now() });
  appear = (): void => this.tell({ type: 'shown', at: Date.now() });

  // wake reports that the device slept, or that its network is back: the
  // connection must be checked.
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

  // --- state machine

  // tell feeds an input to the state machine and starts what the new phase needs.
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
      this.cancel('poll', 'verify', 'state', 'rejoin', 'refill');
      if (is.runs === 'stream') {
        this.join();
      } else if (is.runs === 'polls') {
        void this.poll();
      }
    }
    if (is.probes && !was.probes) {
      this.probeIn(backoff(this.failures.stream));
    }
    if (to === 'lost') {
      this.after('retry', backoff(this.failures.stream), () => this.tell({ type: 'retry' }));
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
      pause = Math.min(pause, backoff(this.failures.polls));
    }
    if (!signal.aborted && this.polls) {
      this.pollIn(pause);
    }
  }

  private pollIn(ms: number): void {
    this.after('poll', ms, () => void this.poll());
  }

  // read polls from the cursor until there are no more events, and returns how
  // many were new. Reads do not overlap: each starts where the last one ended.
  private read(): Promise<number> {
    const { signal } = this.asking;
    const mine = this.reading.then(() => this.readOn(signal));
    this.reading = mine.catch(() => undefined);
    return mine;
  }

  private async readOn(signal: AbortSignal): Promise<number> {
    let added = 0;
    for (let more = true; more;) {
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
        this.rejoin();
        status = error.fresh;
      }
      if (signal.aborted) {
        throw new Aborted();
      }
      this.cursor = status.cursor;
      more = status.more;
      added += this.take(status.events, status.state, this.skew(Date.parse(status.timestamp), asked));
    }
    return added;
  }

  // skew estimates by how much the database's clock is ahead. The database read
  // its clock at some time between request and answer. If that is long, because
  // the page was frozen, the old value is kept unless the answer contradicts it.
  private skew(told: number, asked: number): number {
    const { skew } = this.facts;
    const [least, most] = [told - Date.now(), told - asked];
    return Number.isNaN(told) || (least <= skew && skew <= most) ? skew : (least + most) / 2;
  }

  // --- live

  // dial opens a stream. After it is closed, its messages are ignored.
  private dial(on: {
    opened(line: Line, opened: Opened): void;
    batch(line: Line, batch: Batch): void;
    closed(reason: Error): void;
  }): void {
    this.hangUp();
    const line: Line = { held: null, tells: false, end: () => undefined };
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

  // rejoin opens the stream again, if there is one, after the cursor had expired:
  // the next batches of the old stream may be of the old history.
  private rejoin(): void {
    if (phases[this.facts.phase].runs === 'stream' && this.line?.at !== undefined) {
      this.hangUp();
      this.failures.stream++;
      this.after('rejoin', backoff(this.failures.stream), () => this.join());
    }
  }

  private opened(line: Line, opened: Opened): void {
    if (opened.expired) {
      this.forget();
    }
    line.at = opened.cursor;
    const { state } = opened;
    // A new view shows more old events than the stream delivers.
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
    line.tells ||= batch.state !== undefined;
    if (line.held && line.held.length === heldBatches) {
      this.closed(new Error('What lies before the stream cannot be fetched.'));
    } else if (line.held) {
      line.held.push(batch);
    } else if (batch.from !== line.at) {
      line.held = [batch];
      this.tell({ type: 'gap' });
      void this.fill(line);
    } else {
      line.at = this.cursor = batch.cursor;
      this.take(batch.events, batch.state ?? null);
      if (batch.events.length > 0 && !line.tells && !this.timers.has('state')) {
        this.after('state', stateEvery, () => this.verify());
      }
    }
  }

  // fill fetches missing events while new batches wait, then adds the batches.
  // The fetched events include all before the first waiting batch, because the
  // request was sent after that batch arrived.
  private async fill(line: Line): Promise<void> {
    line.held ??= [];
    try {
      await this.read();
    } catch (error) {
      if (this.line === line) {
        this.failed(error, 'stream');
        if (isBehind(error)) {
          this.after('refill', backoff(this.failures.stream), () => void this.fill(line));
        }
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

  // verify polls while the stream is open: for the state, if it is not streamed,
  // and to check that the stream delivered everything. After two polls without
  // an answer the connection counts as lost, even if the stream is still open.
  private async verify(again = false): Promise<void> {
    const { line } = this;
    this.cancel('verify', 'state');
    let pause = verifyEvery;
    let failed = false;
    try {
      await this.read();
      this.failures.polls = 0;
    } catch (error) {
      if (this.line !== line || error instanceof Aborted) {
        return;
      }
      if (isBehind(error)) {
        this.failed(error, 'polls');
        pause = backoff(this.failures.polls);
      } else if (again || error instanceof SignInNeeded) {
        this.closed(
          error instanceof SignInNeeded || error instanceof Refusal
            ? error
            : new Error('The live connection went silent.')
        );
        return;
      } else {
        failed = true;
        pause = firstRetry;
      }
    }
    if (line && this.line === line) {
      this.after('verify', pause, () => this.verify(failed));
    }
  }

  private closed(reason: Error): void {
    this.hangUp();
    this.failures.stream++;
    this.tell(
      reason instanceof SignInNeeded
        ? { type: 'refused', reason: reason.message }
        : { type: 'closed', at: Date.now(), reason: reason.message }
    );
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
        this.probeIn(backoff(this.failures.stream));
      },
    });
  }

  private probeIn(ms: number): void {
    this.after('probe', ms, () => this.probe());
  }

  // --- both modes

  private take(events: readonly SpecEvent[], state: State | null, skew?: number): number {
    const added = this.store.add(events);
    this.state = state ?? this.state;
    this.tell({ type: 'delivered', at: Date.now(), added, skew });
    return added;
  }

  private held = (): Shown => ({ events: this.store.list(), state: this.state });

  private forget(): void {
    this.history++;
    this.store.clear();
    this.cursor = undefined;
    this.state = null;
    this.tell({ type: 'expired' });
  }

  private failed(error: unknown, of: 'stream' | 'polls'): void {
    if (!(error instanceof Aborted)) {
      const reason = error instanceof Error ? error.message : String(error);
      this.failures[of]++;
      const waits = isBehind(error) && phases[this.facts.phase].runs === 'stream';
      this.tell({ type: error instanceof SignInNeeded ? 'refused' : waits ? 'behind' : 'failed', reason });
    }
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

  // changed notifies the listeners, at once or after redrawEvery.
  private changed(within = 0): void {
    this.view = null;
    if (within > 0) {
      this.redraw ??= setTimeout(() => this.changed(), within);
      return;
    }
    clearTimeout(this.redraw ?? undefined);
    this.redraw = null;
    for (const listener of this.listeners) {
      try {
        listener();
      } catch (error) {
        console.error(error); // an error in a listener must not stop the connection
      }
    }
  }

  private look(): View {
    const f = this.facts;
    return {
      ...(this.frozen ?? this.held()),
      badge: phases[f.phase].badge,
      mode: modeOf(f),
      chosen: f.mode,
      fallback: fellBack(f),
      worked: f.worked,
      lost: f.lost,
      couldBeLive: f.phase === 'offer',
      switching: f.switching,
      refreshing: this.refreshing > 0,
      pending: f.pending,
      updatedAt: f.updatedAt,
      skew: f.skew,
      hint: f.hint,
      restarted: f.restarted,
      history: this.history,
      signIn: f.phase === 'refused',
      error: f.error,
      settings: f.settings,
    };
  }
}
