import { describe, expect, it } from 'vitest';

import { type Templates, expand } from './variables';

interface Variable {
  value: string | string[];
  options?: string[];
  allValue?: string;
  type?: string;
}

// grafana answers as both of Grafana's renderers do: "All" is the text of the
// choice, and its value the variable's own, or else the names in the menu.
function grafana(variables: Record<string, Variable>): Templates {
  return {
    replace: (text, scoped, format) =>
      text.replace(/\$(\w+)|\$\{(\w+)(?::(\w+))?\}/g, (match, short: string, long: string, inner?: string) => {
        const name = short ?? long;
        const held: Variable | undefined = scoped?.[name] ? { value: scoped[name].value as string } : variables[name];
        if (!held) {
          return match;
        }
        const all = held.value === '$__all' || held.value[0] === '$__all';
        if ((inner ?? format) === 'text') {
          return all ? 'All' : [held.value].flat().join(' + ');
        }
        if (all && held.allValue) {
          return held.allValue;
        }
        return typeof format === 'function'
          ? format(all ? held.options : held.value, { type: held.type ?? 'query' })
          : String(held.value);
      }),
  };
}

const options = ['night', 'day'];

describe('names with variables', () => {
  it.each<[string, string[], string[], Variable]>([
    ['a name of its own', ['night'], ['night'], { value: '' }],
    ['a variable that is not there', ['$other'], ['$other'], { value: '' }],
    ['one value', ['$session'], ['night'], { value: 'night' }],
    ['braces', ['${session}'], ['night'], { value: 'night' }],
    ['several values', ['$session', 'third'], ['night', 'day', 'third'], { value: ['night', 'day'] }],
    ['part of a name', ['a-${session}-b'], ['a-night-b', 'a-day-b'], { value: ['night', 'day'] }],
    ['quotes, commas and backslashes', ['$session'], ['a,"b"\\{c}'], { value: ['a,"b"\\{c}'] }],
    ['All', ['$session'], [], { value: '$__all', options }],
    ['All of several', ['$session'], [], { value: ['$__all'], options }],
    ['All beside a name', ['night', '$session'], [], { value: ['$__all'], options }],
    ['All with a value of its own', ['$session'], [], { value: ['$__all'], options, allValue: '.*' }],
    ['All within a name', ['a-$session'], [], { value: ['$__all'], options }],
    ['a session that is called All', ['$session'], ['All'], { value: ['All'] }],
    ['nothing chosen, which is not everything', ['$session'], [''], { value: [] }],
    ['an empty menu', ['$session'], [''], { value: '' }],
    ['an empty text box', ['$session'], [], { value: '', type: 'textbox' }],
  ])('%s', (_, names, expected, variable) => {
    expect(expand(grafana({ session: variable }), names)).toEqual(expected);
  });

  it('a repeated panel shows its own value, not All', () => {
    const scoped = { session: { text: 'night', value: 'night' } };
    expect(expand(grafana({ session: { value: ['$__all'], options } }), ['$session'], scoped)).toEqual(['night']);
  });

  it('no names are all', () => {
    expect(expand(grafana({}), undefined)).toEqual([]);
  });
});
