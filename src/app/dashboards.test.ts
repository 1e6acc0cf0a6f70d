// @vitest-environment jsdom
// The dashboards of the plugin, as their files say.
import { readFileSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { types } from '../datasource/QueryEditor';
import type { Query } from '../datasource/types';

interface Panel {
  type: string;
  title: string;
  targets?: Query[];
  panels?: Panel[];
  options?: { reduceOptions?: { fields?: string } };
  fieldConfig?: {
    defaults: { mappings?: Mapping[] };
    overrides: Array<{ matcher: { options: string }; properties: Array<{ id: string; value: any }> }>;
  };
}

interface Mapping {
  options: Record<string, { text: string; color: string }>;
}

interface Dashboard {
  uid: string;
  tags: string[];
  refresh: string;
  panels: Panel[];
  links: Array<{ type: string; tags: string[]; includeVars: boolean }>;
  annotations: { list: Array<{ target: Query; datasource: { uid: string } }> };
  templating: { list: Array<{ name: string; includeAll?: boolean; description?: string }> };
}

const folder = 'src/dashboards';
const dashboards = readdirSync(folder).map(
  (file) => JSON.parse(readFileSync(`${folder}/${file}`, 'utf8')) as Dashboard
);
const panelsOf = ({ panels }: Dashboard) => panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]);
const sessionOf = ({ templating }: Dashboard) => templating.list.find(({ name }) => name === 'session');

describe.each(dashboards.map((dashboard) => [dashboard.uid, dashboard] as const))('%s', (_, dashboard) => {
  it('asks the chosen data source for the chosen sessions, in panels and annotations', () => {
    const targets = [
      ...panelsOf(dashboard).flatMap(({ type, targets = [] }) => (type === 'specwatch-events-panel' ? [] : targets)),
      ...dashboard.annotations.list.map(({ target, datasource }) => ({ ...target, datasource })),
    ].filter(({ queryType }) => queryType !== undefined);
    expect(targets.length).toBeGreaterThan(0);
    for (const { queryType, datasource, sessions } of targets) {
      expect(datasource?.uid).toBe('${datasource}');
      const narrows = sessionOf(dashboard) !== undefined && types[queryType!].filters.includes('sessions');
      expect(sessions, queryType).toEqual(narrows ? ['$session'] : undefined);
    }
  });

  it('reduces fields by the names that they are shown with', () => {
    for (const { title, options, fieldConfig } of panelsOf(dashboard)) {
      const fields = options?.reduceOptions?.fields?.match(/^\/(.*)\/$/)?.[1];
      for (const { matcher, properties } of fields ? (fieldConfig?.overrides ?? []) : []) {
        const shown = properties.find(({ id }) => id === 'displayName')?.value;
        if (shown !== undefined) {
          // Renamed to be shown, or not to be.
          const [before, after] = [matcher.options, shown].map((name) => new RegExp(fields!).test(name));
          expect([title, fields === '.*' || before !== after]).toEqual([title, true]);
        }
      }
    }
  });

  it('leads to no dashboard that cannot show what is chosen here', () => {
    const all = sessionOf(dashboard)?.includeAll !== false;
    for (const { tags } of dashboard.links.filter(({ type, includeVars }) => type === 'dashboards' && includeVars)) {
      const led = dashboards.filter((other) => tags.every((tag) => other.tags.includes(tag)));
      expect(led.length).toBeGreaterThan(1);
      expect(all && led.some((other) => sessionOf(other)?.includeAll === false)).toBe(false);
    }
  });

  it('says of a menu that ends somewhere how to find the others', () => {
    for (const { description } of dashboard.templating.list.filter(({ name }) => name === 'session')) {
      expect(description).toContain('Type to search');
    }
  });

  it('is queried again only as its mode says, and gives ranges of their own to queries, not to panels', () => {
    expect(dashboard.refresh).toBe('');
    expect(JSON.stringify(dashboard)).not.toContain('timeFrom'); // has no effect under an absolute range
  });

  it('links to a session with a range that both renderers read', () => {
    expect(JSON.stringify(dashboard)).not.toContain('time.window');
  });

  // On a coloured cell Grafana writes in white or black by the brightness of the
  // colour, which is hard to read on orange, green and blue. On a translucent colour it
  // writes in the colour of the theme's text. Only gradients leave it translucent.
  it('colours cells so that their text can be read in both themes', () => {
    for (const { title, fieldConfig } of panelsOf(dashboard)) {
      for (const { properties } of fieldConfig?.overrides ?? []) {
        const set = Object.fromEntries(properties.map(({ id, value }) => [id, value]));
        const { type: cell, mode } = set['custom.cellOptions'] ?? {};
        expect([title, cell]).not.toEqual([title, 'color-text']);
        if (cell === 'color-background') {
          expect([title, mode]).toEqual([title, 'gradient']);
          const colors = JSON.stringify([set.mappings, set.thresholds]).matchAll(/"color":"([^"]*)"/g);
          expect(
            [...colors].map(([, color]) => color).filter((color) => !/^(#.{6}4B|transparent)$/.test(color))
          ).toEqual([]);
        }
      }
    }
  });

  it('prints whole numbers, and no name as markup', () => {
    for (const panel of panelsOf(dashboard)) {
      expect(panel.title).not.toContain('$');
      expect(panel.type).not.toBe('text');
      expect(JSON.stringify(panel)).not.toMatch(/"value":"short"|"unit":"short"|"type":"markdown"/);
    }
  });
});

it('a colour means the same on every panel', () => {
  const colors = new Map<string, Set<string>>();
  const note = (name: string, color: string) =>
    colors.set(name, (colors.get(name) ?? new Set()).add(color.slice(0, '#rrggbb'.length)));
  for (const { fieldConfig } of dashboards.flatMap(panelsOf)) {
    const mappings = [...(fieldConfig?.defaults.mappings ?? [])];
    for (const { matcher, properties } of fieldConfig?.overrides ?? []) {
      const set = Object.fromEntries(properties.map(({ id, value }) => [id, value]));
      mappings.push(...((set.mappings ?? []) as Mapping[]));
      if (set.color?.fixedColor && matcher.options !== 'time') {
        note(set.displayName ?? matcher.options, set.color.fixedColor);
      }
    }
    for (const { text, color } of mappings.flatMap(({ options }) => Object.values(options))) {
      note(text, color);
    }
  }
  const meanings = [
    ['running', 'started', 'awake'],
    ['completed'],
    ['failed'],
    ['timed out'],
    ['needs you', 'waiting', 'waits'],
    ['usage limit'],
    ['silent', 'asleep'],
    ['answered'],
    ['other'],
    ['abandoned', 'heartbeat'],
  ];
  const found = meanings.map((names) => [...new Set(names.flatMap((name) => [...(colors.get(name) ?? [])]))]);
  expect(
    found.map((list) => list.length),
    JSON.stringify(found)
  ).toEqual(meanings.map(() => 1));
  expect(new Set(found.flat()).size, JSON.stringify(found)).toBe(meanings.length);
});
