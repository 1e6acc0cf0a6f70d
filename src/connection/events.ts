import type { SpecEvent } from './model';

// What a view holds at most; older events stay in PostgreSQL.
export const heldEvents = 5_000;

// EventStore holds the newest events, each once, newest first. Events are
// told apart by id, so one that comes by two ways is held once.
export class EventStore {
  private held = new Map<number, SpecEvent>();
  private sorted: readonly SpecEvent[] = [];

  constructor(private readonly most = heldEvents) {}

  // add returns how many of the events are new.
  add(events: readonly SpecEvent[]): number {
    const before = this.held.size;
    for (const event of events) {
      this.held.set(event.id, event);
    }
    const added = this.held.size - before;
    if (added > 0) {
      const all = [...this.held.values()].sort(newestFirst);
      for (const dropped of all.splice(this.most)) {
        this.held.delete(dropped.id);
      }
      this.sorted = all;
    }
    return added;
  }

  clear(): void {
    this.held.clear();
    this.sorted = [];
  }

  // list is the same array until something changes.
  list(): readonly SpecEvent[] {
    return this.sorted;
  }
}

// Times have nine digits and are in UTC, so that texts sort as times do.
function newestFirst(a: SpecEvent, b: SpecEvent): number {
  return a.at === b.at ? b.id - a.id : a.at < b.at ? 1 : -1;
}
