// The page on a wall all night: eight hours of events, written as fast as the
// page shows them, and what its heap holds after each hour.
import { expect, test } from './fixtures';
import type { Table } from './table';

const hours = 8;
const steps = 12; // of an hour: five minutes each

// fiveMinutes writes what one session sends in that time: heartbeats every 15
// seconds and ten specs with their ends.
const fiveMinutes = (table: Table, step: number) =>
  table.read(
    `INSERT INTO events (kind, session, spec, data)
     SELECT kind, 'night', CASE kind WHEN 'session_heartbeat' THEN '' ELSE concat('spec ', ${step}, ' ', i) END, data::jsonb
     FROM generate_series(1, 20) i, LATERAL (VALUES
       ('session_heartbeat', '{"silentSeconds": 1, "cpuSeconds": 3}'), ('spec_started', '{}'),
       ('spec_failed', '{"reason": "exit code", "output": "the last line of an output that says what is wrong"}')
     ) e (kind, data) WHERE kind = 'session_heartbeat' OR i <= 10 ORDER BY i`
  );

test('a page that is open all night does not grow', async ({ page, gateway, table }) => {
  test.setTimeout(900_000);
  const devtools = await page.context().newCDPSession(page);
  const heap = async () => {
    await devtools.send('HeapProfiler.collectGarbage');
    return (await devtools.send('Runtime.getHeapUsage')).usedSize / 2 ** 20;
  };
  await table.many(2_000, 'before'); // the list is full
  await page.goto(gateway.url);
  await expect(page.getByRole('status').first()).toHaveAttribute('data-status', 'live', { timeout: 60_000 });
  const measured: number[] = [];
  for (let hour = 0; hour < hours; hour++) {
    for (let step = hour * steps; step < (hour + 1) * steps; step++) {
      await fiveMinutes(table, step);
      await expect(
        page
          .getByTestId('event-row')
          .filter({ hasText: `spec ${step} 10` })
          .first()
      ).toBeVisible();
    }
    measured.push(await heap());
    console.log(`after hour ${hour + 1}: ${measured.at(-1)!.toFixed(1)} MB of heap`);
  }
  expect(measured.at(-1)!).toBeLessThan(measured[0] * 1.2);
});
