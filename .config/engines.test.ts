import { readFileSync } from 'node:fs';

import { intersects, subset, validRange } from 'semver';
import { expect, it } from 'vitest';

interface Package {
  engines?: { node?: string };
  optional?: boolean;
}

const read = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
const own: string = read('package.json').engines.node;
const locked: Record<string, Package> = read('package-lock.json').packages;

it('every package runs on every version of Node.js that package.json promises', () => {
  const refuse = Object.entries(locked).flatMap(([path, { engines, optional }]) =>
    engines?.node && !optional && !subset(own, validRange(engines.node) ?? '<0.0.0') ? [`${path}: ${engines.node}`] : []
  );
  expect(refuse).toEqual([]);
});

it('.nvmrc names a version that package.json promises', () => {
  expect(intersects(readFileSync('.nvmrc', 'utf8').trim(), own)).toBe(true);
});
