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
          expect([title, new RegExp(fields!).test(shown)]).toEqual([title, true]);
          expect([title, fields === '.*' || !new RegExp(fields!).test(matcher.options)]).toEqual([title, true]);
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
  const note = (name: string, color: string) => colors.set(name, (colors.get(name) ?? new Set()).add(color));
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
    ['running', 'started'],
    ['completed'],
    ['failed'],
    ['timed out'],
    ['needs you', 'waiting', 'waits'],
    ['usage limit'],
    ['silent'],
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
