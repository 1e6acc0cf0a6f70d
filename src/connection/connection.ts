// Connection keeps a view in step with PostgreSQL, live or by polling. It
// knows neither React nor Grafana: a Transport brings the events.
//
// Live: subscribe first, then fetch what lies between the own cursor and the
// stream, then pass the stream on. Batches name the cursor that they follow;
// one that follows another than the last batch shows that something is
// missing, and it is fetched by cursor. Whatever comes twice is held once.
import { EventStore } from './events';
import type { Batch, SpecEvent, State, Status } from './model';
import { type Mode, type Settings, startMode } from './settings';
import { Expired, type Opened, SignInNeeded, type Transport } from './transport';

export type Badge = 'connecting' | 'live' | 'delayed' | 'offline';

// View is what a person sees. It is a new object at each change.
export interface View {
  events: readonly SpecEvent[];
  state: State | null;
  badge: Badge;
  mode: Mode; // in effect
  fallback: boolean; // polling, because live was lost
  couldBeLive: boolean; // live was lost and would work again
  switching: boolean; // the chosen mode has not delivered yet
  refreshing: boolean;
  pending: number; // new events that wait for Refresh
  updatedAt: number | null; // ms since 1970, by this machine's clock
  skew: number; // ms by which the database's clock is ahead of this machine's
  signIn: boolean;
  error: string | null;
  settings: Settings;
}

const firstRetry = 500; // ms
const lastRetry = 30_000;
const attemptsBeforeFallback = 2;
const stateEvery = 1_000; // at most once, after events
const safetyEvery = 30_000; // live: states age without events

export class Connection {
  private readonly store = new EventStore();
  private view: View;
  private listeners = new Set<() => void>();
  private cursor: string | undefined; // everything up to here is held
  private stream: string | undefined; // cursor of the last batch of this stream
  private waiting: Batch[] | null = null; // batches that came while a gap is filled
  private endLive: (() => void) | null = null;
  private failures = 0;
  private shownAll = true;
  private timers = new Map<string, ReturnType<typeof setTimeout>>();
  private asking = new AbortController();
  private generation = 0; // answers of an earlier mode are ignored
  private stopped = true;

  constructor(
    private readonly transport: Transport,
    settings: Settings,
    mode: Mode = startMode(settings)
  ) {
    this.view = {
      events: [], state: null, badge: 'connecting', mode, fallback: false, couldBeLive: false, switching: false,
      refreshing: false, pending: 0, updatedAt: null, skew: 0, signIn: false, error: null, settings,
    };
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  snapshot = (): View => this.view;

  start(): void {
    if (this.stopped) {
      this.stopped = false;
      this.begin(this.view.mode);
    }
  }

  stop(): void {
    this.stopped = true;
    this.halt();
  }

  // setMode is the person's toggle.
  setMode(mode: Mode): void {
    this.change({ mode, fallback: false, couldBeLive: false, switching: true });
    this.begin(mode);
  }

  setSettings(settings: Settings): void {
    const before = this.view.settings;
    this.change({ settings });
    if (!settings.manualRefreshOnly) {
      this.show();
    }
    const mode = startMode(settings);
    if (settings.preferredMode !== before.preferredMode && mode !== this.view.mode) {
      this.setMode(mode);
    } else if (this.view.mode === 'polling' && settings.pollingInterval !== before.pollingInterval) {
      this.after('poll', settings.pollingInterval * 1_000, () => this.pollOn());
    }
  }

  // refresh always asks the database, whatever the mode.
  async refresh(): Promise<void> {
    this.change({ refreshing: true });
    const generation = this.generation;
    try {
      await this.fetch();
      this.show();
      if (generation === this.generation && (this.view.mode === 'polling' || this.view.badge !== 'live')) {
        this.change({ badge: this.view.mode === 'polling' ? 'delayed' : this.view.badge });
      }
    } catch (error) {
      this.failed(error);
    } finally {
      this.change({ refreshing: false });
    }
  }

  // signedIn tries again after the person has given a token.
  signedIn(): void {
    this.change({ signIn: false, error: null });
    this.begin(this.view.mode);
  }

  private begin(mode: Mode): void {
    this.halt();
    if (this.stopped) {
      return;
    }
    this.failures = 0;
    if (mode === 'websocket') {
      this.connect();
    } else {
      void this.pollOn();
    }
  }

  private halt(): void {
    this.generation++;
    this.asking.abort();
    this.asking = new AbortController();
    this.endLive?.();
    this.endLive = null;
    this.stream = undefined;
    this.waiting = null;
    for (const timer of this.timers.values()) {
      clearTimeout(timer);
    }
    this.timers.clear();
  }

  // --- polling

  private async pollOn(): Promise<void> {
    const generation = this.generation;
    let pause = this.view.settings.pollingInterval * 1_000;
    try {
      await this.fetch();
      if (generation !== this.generation) {
        return;
      }
      if (!this.view.fallback) {
        this.failures = 0; // in fallback they are those of the live connection
      }
      this.change({ badge: 'delayed', switching: false, error: null, signIn: false });
    } catch (error) {
      if (generation !== this.generation) {
        return;
      }
      this.failed(error);
      this.change({ badge: 'offline', switching: false });
      pause = Math.min(pause, this.backoff());
    }
    if (!this.view.signIn) {
      this.after('poll', pause, () => this.pollOn());
    }
  }

  // fetch reads on from the cursor until there is no more.
  private async fetch(): Promise<void> {
    for (let more = true; more; ) {
      let status: Status;
      const signal = this.asking.signal;
      try {
        status = await this.transport.poll(this.cursor, signal);
      } catch (error) {
        if (!(error instanceof Expired)) {
          throw error;
        }
        this.forget();
        status = error.fresh;
      }
      if (signal.aborted) {
        throw new DOMException('another mode was chosen', 'AbortError');
      }
      this.cursor = status.cursor;
      more = status.more;
      this.take(status.events, status.state, status.timestamp);
    }
  }

  // --- live

  private connect(probing = false): void {
    const generation = this.generation;
    let open = false;
    const mine = () => generation === this.generation;
    const end = this.transport.live(probing ? undefined : this.cursor, {
      opened: (opened) => {
        if (!mine()) {
          return;
        }
        open = true;
        if (probing) {
          end();
          this.change({ couldBeLive: true });
          return;
        }
        void this.join(opened);
      },
      batch: (batch) => {
        if (mine() && !probing) {
          this.receive(batch);
        }
      },
      closed: (reason) => {
        if (!mine() || (probing && open)) {
          return;
        }
        if (!probing) {
          this.endLive = null;
          this.stream = undefined;
          this.waiting = null;
        }
        this.lost(reason, probing);
      },
    });
    if (!probing) {
      this.endLive = end;
    }
  }

  private async join(opened: Opened): Promise<void> {
    const generation = this.generation;
    if (opened.expired) {
      this.forget();
    }
    this.stream = opened.cursor;
    try {
      if (opened.complete) {
        this.cursor = opened.cursor;
        this.take(opened.events ?? [], opened.state ?? this.view.state, opened.state?.at);
      } else {
        await this.fill();
      }
    } catch (error) {
      if (generation === this.generation) {
        this.endLive?.();
        this.endLive = null;
        this.lost(error instanceof Error ? error : new Error(String(error)), false);
      }
      return;
    }
    if (generation !== this.generation) {
      return;
    }
    this.failures = 0;
    this.change({ badge: 'live', switching: false, fallback: false, couldBeLive: false, error: null, signIn: false });
    this.after('state', safetyEvery, () => this.refreshState());
  }

  private receive(batch: Batch): void {
    if (this.waiting) {
      this.waiting.push(batch);
      return;
    }
    if (batch.from !== this.stream) {
      // Something is missing before this batch.
      this.waiting = [batch];
      const generation = this.generation;
      this.fill().catch((error) => {
        if (generation === this.generation) {
          this.endLive?.();
          this.endLive = null;
          this.lost(error, false);
        }
      });
      return;
    }
    this.stream = this.cursor = batch.cursor;
    this.take(batch.events, null);
    if (batch.events.length > 0 && !this.timers.has('soon')) {
      this.after('soon', stateEvery, () => this.refreshState());
    }
  }

  // fill fetches what is missing while batches wait, then takes them. What
  // was fetched holds all that lies before the first of them, because the
  // database was asked after it came.
  private async fill(): Promise<void> {
    this.waiting ??= [];
    const generation = this.generation;
    await this.fetch();
    if (generation !== this.generation) {
      return;
    }
    const batches = this.waiting ?? [];
    this.waiting = null;
    if (batches.length > 0) {
      this.stream = batches[0].from;
    }
    batches.forEach((batch) => this.receive(batch));
  }

  private async refreshState(): Promise<void> {
    const generation = this.generation;
    try {
      const status = await this.transport.poll(this.cursor, this.asking.signal);
      if (generation === this.generation) {
        this.take(status.events, status.state, status.timestamp);
      }
    } catch {
      // The stream itself tells when the connection is lost.
    }
    if (generation === this.generation && this.endLive) {
      this.after('state', safetyEvery, () => this.refreshState());
    }
  }

  private lost(reason: Error, probing: boolean): void {
    this.failures++;
    this.clear('state', 'soon');
    if (!probing) {
      this.failed(reason);
    }
    if (this.view.signIn) {
      this.change({ badge: 'offline', switching: false });
      return;
    }
    if (!probing && this.failures >= attemptsBeforeFallback && this.view.settings.autoFallback) {
      this.change({ mode: 'polling', fallback: true, switching: false });
      void this.pollOn();
      probing = true;
    } else if (!probing) {
      this.change({ badge: 'offline' });
    }
    this.after('connect', this.backoff(), () => this.connect(probing));
  }

  // --- what both share

  private take(events: readonly SpecEvent[], state: State | null, timestamp?: string): void {
    const added = this.store.add(events);
    const change: Partial<View> = { updatedAt: Date.now() };
    if (timestamp) {
      change.skew = Date.parse(timestamp) - Date.now();
    }
    if (this.view.settings.manualRefreshOnly && this.view.updatedAt !== null) {
      change.pending = this.view.pending + added;
      change.updatedAt = this.view.updatedAt;
      this.shownAll = false;
      this.hiddenState = state ?? this.hiddenState;
    } else {
      change.events = this.store.list();
      change.state = state ?? this.view.state;
    }
    this.change(change);
  }

  private hiddenState: State | null = null;

  private show(): void {
    this.change({
      events: this.store.list(), pending: 0, updatedAt: Date.now(),
      state: this.shownAll ? this.view.state : (this.hiddenState ?? this.view.state),
    });
    this.shownAll = true;
  }

  private forget(): void {
    this.store.clear();
    this.cursor = undefined;
    this.change({ events: [], pending: 0 });
  }

  private failed(error: unknown): void {
    if (error instanceof DOMException && error.name === 'AbortError') {
      return;
    }
    if (error instanceof SignInNeeded) {
      this.change({ signIn: true });
    }
    this.change({ error: error instanceof Error ? error.message : String(error) });
  }

  // backoff doubles with every failure and is spread, so that many viewers
  // do not come back in the same moment ("full jitter").
  private backoff(): number {
    const most = Math.min(lastRetry, firstRetry * 2 ** Math.min(this.failures, 10));
    return firstRetry / 2 + Math.random() * most;
  }

  private after(name: string, ms: number, run: () => void): void {
    this.clear(name);
    if (!this.stopped) {
      this.timers.set(
        name,
        setTimeout(() => {
          this.timers.delete(name);
          run();
        }, ms)
      );
    }
  }

  private clear(...names: string[]): void {
    for (const name of names) {
      clearTimeout(this.timers.get(name));
      this.timers.delete(name);
    }
  }

  private change(part: Partial<View>): void {
    this.view = { ...this.view, ...part };
    this.listeners.forEach((listener) => listener());
  }
}
