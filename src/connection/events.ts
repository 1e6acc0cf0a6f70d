import { compact } from './json';
import type { SpecEvent } from './model';

// The most that a view keeps in memory; older events stay in PostgreSQL.
export const heldEvents = 5_000;
export const heldCharacters = 32_000_000; // of data, as JSON

interface Held {
  event: SpecEvent;
  size: number;
}

// EventStore keeps the newest events in memory, each once, newest first. Events
// are identified by id.
export class EventStore {
  private held = new Map<number, Held>();
  private size = 0;
  private sorted: readonly SpecEvent[] | null = [];

  constructor(
    private readonly most = heldEvents,
    private readonly mostCharacters = heldCharacters
  ) {}

  // add returns how many of the events are new and not heartbeats.
  add(events: readonly SpecEvent[]): number {
    let news = 0;
    for (const event of events) {
      if (!this.held.has(event.id)) {
        const size = compact(event.data).length;
        this.held.set(event.id, { event, size });
        this.size += size;
        this.sorted = null;
        news += event.kind === 'session_heartbeat' ? 0 : 1;
      }
    }
    // Sort only when the list is read, or when there are too many events.
    if (this.held.size > 2 * this.most || this.size > 2 * this.mostCharacters) {
      this.list();
    }
    return news;
  }

  clear(): void {
    this.held.clear();
    this.size = 0;
    this.sorted = [];
  }

  // list returns the same array until something changes.
  list(): readonly SpecEvent[] {
    if (this.sorted) {
      return this.sorted;
    }
    const all = [...this.held.values()].sort((a, b) => newestFirst(a.event, b.event));
    while (all.length > this.most || (all.length > 1 && this.size > this.mostCharacters)) {
      const { event, size } = all.pop()!;
      this.held.delete(event.id);
      this.size -= size;
    }
    this.sorted = all.map((h) => h.event);
    return this.sorted;
  }
}

// Times have nine digits and are in UTC, so they sort as strings.
function newestFirst(a: SpecEvent, b: SpecEvent): number {
  return a.at === b.at ? b.id - a.id : a.at < b.at ? 1 : -1;
}
