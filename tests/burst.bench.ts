// The page during a burst: 10,000 events written at once while it is Live.
// The reference, in the same run and the same page, is the burst of 100.
import { expect, test } from './fixtures';

test('a burst of 10,000 events', async ({ page, gateway, table }) => {
  test.setTimeout(180_000);
  await page.goto(gateway.url);
  await expect(page.getByRole('status')).toHaveAttribute('data-status', 'live');
  await page.evaluate(() => {
    const seen: number[] = [];
    Object.assign(window, { longTasks: seen });
    new PerformanceObserver((list) => seen.push(...list.getEntries().map((e) => e.duration))).observe({
      type: 'longtask',
    });
  });
  const heap = await page.context().newCDPSession(page);
  await heap.send('HeapProfiler.enable');
  const burst = async (n: number, session: string) => {
    await page.evaluate(() => ((window as unknown as { longTasks: number[] }).longTasks.length = 0));
    await table.many(n, session);
    await expect(page.getByTestId('count-completed').locator('b')).toHaveText((done += n).toLocaleString('en-US'), {
      timeout: 60_000,
    });
    await expect(page.getByTestId('event-row').first()).toContainText(session);
    await heap.send('HeapProfiler.collectGarbage');
    const { usedSize } = await heap.send('Runtime.getHeapUsage');
    const tasks = await page.evaluate(() => (window as unknown as { longTasks: number[] }).longTasks);
    return { longest: Math.max(0, ...tasks), over50: tasks.length, megabytes: usedSize / 1e6 };
  };
  let done = 0;
  await burst(100, 'warm-up');
  const small = await burst(100, 'reference');
  const large = await burst(10_000, 'burst');
  const again = await burst(10_000, 'burst-again');
  const tell = (name: string, r: typeof small) =>
    `${name.padEnd(16)} longest task ${r.longest.toFixed(0).padStart(4)} ms, ${r.over50} tasks over 50 ms, heap ${r.megabytes.toFixed(1)} MB`;
  console.log([tell('100 events', small), tell('10,000 events', large), tell('10,000 more', again)].join('\n'));
  const rows = await page.getByTestId('event-row').count();
  console.log(
    `rows in the document: ${rows}; heap after the second burst: ${(again.megabytes / large.megabytes).toFixed(2)} × that after the first`
  );
});
