import { type DataFrame, FieldType } from '@grafana/data';
import { describe, expect, it } from 'vitest';

import { annotationOf, asText } from './annotations';

const hostile = '<img src=x> & "more"';
const harmless = '&lt;img src=x&gt; &amp; &quot;more&quot;';

const frame: DataFrame = {
  length: 1,
  fields: [
    { name: 'time', type: FieldType.time, config: {}, values: [0] },
    { name: 'kind', type: FieldType.string, config: {}, values: ['spec_failed'] },
    { name: 'session', type: FieldType.string, config: {}, values: [hostile] },
    { name: 'spec', type: FieldType.string, config: {}, values: [hostile] },
    { name: 'data', type: FieldType.other, config: {}, values: [{ reason: hostile }] },
    { name: 'id', type: FieldType.number, config: {}, values: [7] },
  ],
};
const told = (mappings: Parameters<typeof asText>[1]) =>
  Object.fromEntries(asText(frame, mappings).fields.map((field) => [field.name, field.values[0] as unknown]));

describe('annotations', () => {
  it('have the texts of the events escaped as HTML', () => {
    expect(told({ text: { value: 'spec' }, tags: { value: 'session' } })).toEqual({
      time: 0,
      kind: 'spec_failed',
      session: hostile,
      spec: harmless,
      id: 7,
      data: expect.stringContaining('&lt;img src=x&gt;') as string,
    });
  });

  it.each([
    [undefined],
    [{ text: { value: 'session' }, tags: { value: 'session' } }],
    [{ title: { value: 'session' } }],
  ])('escape whatever may become a text: %j', (mappings) => {
    expect(JSON.stringify(told(mappings))).not.toContain('<');
  });

  it('are distinguished from other requests', () => {
    const annotation = { name: 'Trouble', enable: true, iconColor: 'red' };
    expect(annotationOf({ scopedVars: { __annotation: { text: 'Trouble', value: annotation } } })).toBe(annotation);
    expect(annotationOf({ scopedVars: {} })).toBeUndefined();
  });
});
