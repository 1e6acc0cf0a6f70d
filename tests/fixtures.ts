// What the tests are given: a real gateway over a schema of its own, its
// table, and a network whose faults they choose.
import { test as base } from '@playwright/test';

import { Gateway } from './gateway';
import { Network } from './link';
import { Table } from './table';

interface Fixtures {
  gateway: Gateway;
  table: Table;
}

export const test = base.extend<Fixtures, { network: Network }>({
  gateway: async ({}, use) => {
    const gateway = new Gateway();
    await gateway.start();
    await use(gateway);
    await gateway.stop();
  },
  table: async ({ gateway }, use) => {
    const table = await Table.open(gateway.schema);
    await use(table);
    await table.close();
  },
  network: [
    async ({}, use) => {
      const network = await Network.start();
      await use(network);
      await network.stop();
    },
    { scope: 'worker' },
  ],
});

export { expect } from '@playwright/test';
