// Dashboard variables in the lists of a query.
import type { ScopedVars } from '@grafana/data';

// Templates is the part of Grafana's template service that is used here.
export interface Templates {
  replace(
    text: string,
    scoped?: ScopedVars,
    format?: string | ((value: unknown, variable: { type?: string }) => string)
  ): string;
}

const reference = /\$(\w+)|\[\[(\w+?)(?::\w+)?\]\]|\$\{(\w+)(?:\.[^:}]+)?(?::[^}]+)?\}/g;

// expand replaces the variables in a list of names; a variable with several values
// gives several names. An empty list means all, and "All" becomes an empty list.
// It does not become the names in the menu: the menu is limited in length and may
// have been filled before the newest session began.
export function expand(templates: Templates, names: readonly string[] | undefined, scoped: ScopedVars = {}): string[] {
  const filled: string[] = [];
  for (const name of names ?? []) {
    const list = expandOne(templates, name, scoped);
    if (list === 'all') {
      return [];
    }
    filled.push(...list);
  }
  return [...new Set(filled)];
}

function expandOne(templates: Templates, name: string, scoped: ScopedVars): string[] | 'all' {
  let all = false;
  let made = [''];
  const append = (texts: string[]) => {
    made = made.flatMap((before) => texts.map((text) => before + text));
  };
  let end = 0;
  for (const match of name.matchAll(reference)) {
    const values = valuesOf(templates, match[0], match[1] ?? match[2] ?? match[3], scoped);
    all ||= values === 'all';
    append([name.slice(end, match.index)]);
    append(values === 'all' ? [''] : values);
    end = match.index + match[0].length;
  }
  append([name.slice(end)]);
  return all ? 'all' : made;
}

// valuesOf returns the values of a reference to a variable.
function valuesOf(templates: Templates, text: string, variable: string, scoped: ScopedVars): string[] | 'all' {
  let values: string[] | undefined;
  let type: string | undefined;
  const replaced = templates.replace(text, scoped, (value, of) => {
    type = of?.type;
    values = (Array.isArray(value) ? value : [value]).map(String);
    return '';
  });
  // Only the text is "All" in both of Grafana's renderers, also for a variable
  // that has an "all" value of its own. A session may have the name "All".
  if (templates.replace(`\${${variable}:text}`, scoped) === 'All' && !(values?.length === 1 && values[0] === 'All')) {
    return 'all';
  }
  values ??= [replaced];
  // An empty text box means all. A menu from which nothing was chosen, because
  // it may be empty, means no name.
  if (values.every((value) => value === '')) {
    return type === 'textbox' ? 'all' : [''];
  }
  return values;
}
