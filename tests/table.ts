// What PostgreSQL holds, and what a page shows of it.
import type { Page } from '@playwright/test';
import { Client } from 'pg';

// Table reads and writes the events of one schema by plain SQL, as any program
// may.
export class Table {
  private constructor(
    readonly schema: string,
    private readonly client: Client
  ) {}

  static async open(schema: string): Promise<Table> {
    const client = new Client({
      connectionString: process.env.SPECWATCH_TEST_DATABASE_URL,
      options: `-c search_path=${schema}`,
    });
    await client.connect();
    return new Table(schema, client);
  }

  close = (): Promise<void> => this.client.end();

  // ids are the events that a list shows, newest first.
  async ids(session?: string): Promise<number[]> {
    const { rows } = await this.client.query(
      `SELECT id::int FROM events WHERE kind <> 'session_heartbeat' AND ($1::text IS NULL OR session = $1) ORDER BY at DESC, id DESC`,
      [session ?? null]
    );
    return rows.map((row) => row.id);
  }

  // read answers the rows of a query.
  async read(sql: string): Promise<Array<Record<string, any>>> {
    return (await this.client.query(sql)).rows;
  }

  // insert takes data as a value, or as the text of JSON.
  async insert(kind: string, session: string, spec: string, data: object | string = {}): Promise<void> {
    await this.client.query('INSERT INTO events (kind, session, spec, data) VALUES ($1, $2, $3, $4)', [
      kind,
      session,
      spec,
      data,
    ]);
  }

  // many writes n finished specs in one statement, their times a moment apart.
  async many(n: number, session: string): Promise<void> {
    await this.client.query(
      `INSERT INTO events (kind, session, spec, at)
       SELECT 'spec_completed', $2, 'spec ' || i, now() - (($1::int - i) || ' microseconds')::interval FROM generate_series(1, $1::int) i`,
      [n, session]
    );
  }

  // restore gives the table another history, as a restore from a dump does.
  async restore(): Promise<void> {
    await this.client.query('UPDATE specwatch_meta SET epoch = gen_random_uuid()');
  }

  // late begins a transaction that has written and not committed; the answer
  // commits it.
  async late(session: string, spec: string): Promise<() => Promise<void>> {
    const other = await Table.open(this.schema);
    await other.client.query('BEGIN');
    await other.insert('spec_started', session, spec);
    return async () => {
      await other.client.query('COMMIT');
      await other.close();
    };
  }
}

// shownIds walks through the whole list, of which only the rows in sight are
// in the document.
export async function shownIds(page: Page): Promise<number[]> {
  return page.evaluate(async () => {
    const list = document.querySelector('[aria-label="List of events"]');
    if (!list) {
      return [];
    }
    const seen = new Map<number, number>(); // place in the list → id
    const look = () => {
      for (const row of list.querySelectorAll<HTMLElement>('[data-event-id]')) {
        seen.set(Number(row.dataset.index), Number(row.dataset.eventId));
      }
    };
    const drawn = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    for (let top = 0; ; top += list.clientHeight / 2) {
      list.scrollTop = top;
      await drawn();
      look();
      if (list.scrollTop + list.clientHeight >= list.scrollHeight - 1) {
        break;
      }
    }
    list.scrollTop = 0;
    await drawn();
    return [...seen.entries()].sort(([a], [b]) => a - b).map(([, id]) => id);
  });
}
