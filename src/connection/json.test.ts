import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { compact, pretty } from './json';

const anyJson = fc.jsonValue({ maxDepth: 6, noUnicodeString: false } as object);
const nested = (open: string, close: string, depth: number): unknown =>
  JSON.parse(open.repeat(depth) + '1' + close.repeat(depth));

describe('JSON', () => {
  it('is printed as JSON.stringify does', () => {
    fc.assert(
      fc.property(anyJson, (value) => {
        expect(compact(value)).toBe(JSON.stringify(value));
        expect(pretty(value, Infinity)).toEqual({ text: JSON.stringify(value, null, 2), cut: false });
      })
    );
  });

  it.each([
    ['[', ']'],
    ['{"a":', '}'],
    ['[{"__proto__":', '}]'],
  ])('of any depth is printed: %s', (open, close) => {
    const value = nested(open, close, 20_000);
    expect(compact(value)).toBe(open.repeat(20_000) + '1' + close.repeat(20_000));
    expect(pretty(value, Infinity).text.replace(/\s/g, '')).toBe(compact(value));
    expect(pretty(value, Infinity).text.length).toBeLessThan(2_000_000);
  });

  it('is cut where it is long', () => {
    const value = Array.from({ length: 500_000 }, () => 0);
    const { text, cut } = pretty(value, 1_000);
    expect([text.length, cut]).toEqual([1_000, true]);
    expect(pretty({ text: 'x'.repeat(5_000) }, 1_000)).toMatchObject({ cut: true });
  });
});
