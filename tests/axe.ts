import AxeBuilder from '@axe-core/playwright';
import type { Page } from '@playwright/test';

// complaints are what axe finds wrong in a part of the page; its minor remarks
// on what is not ours (Grafana's own components) aside.
export async function complaints(page: Page, within: string): Promise<string[]> {
  const { violations } = await new AxeBuilder({ page }).include(within).analyze();
  return violations
    .filter((v) => v.impact !== 'minor')
    .map((v) => `${v.impact} ${v.id}: ${v.nodes.map((n) => n.html).join(' ')}`);
}
