// Events for the Grafana that all tests share, by the command line, as any
// producer writes them.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { executable } from './gateway';

// database is that of the shared Grafana, as the command line wants it named.
export const database = {
  SPECWATCH_DATABASE_URL: process.env.SPECWATCH_TEST_DATABASE_URL,
  SPECWATCH_SCHEMA: process.env.SPECWATCH_TEST_GRAFANA_SCHEMA,
};

export interface Past {
  kind: string;
  session: string;
  spec?: string;
  at?: string; // RFC 3339; now by default
  data?: object;
}

export async function write(...events: Past[]): Promise<void> {
  const writing = promisify(execFile)(executable, ['emit', '--from', '-'], { env: { ...process.env, ...database } });
  writing.child.stdin!.end(events.map((event) => JSON.stringify(event)).join('\n'));
  await writing;
}
