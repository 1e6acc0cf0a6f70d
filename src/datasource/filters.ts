// Ad-hoc filters of a dashboard.
import { kinds } from '../contract.gen';
import type { Query } from './types';

export interface AdHocFilter {
  key: string;
  operator: string;
  value: string;
  values?: string[]; // of an operator that takes several
}

const lists = { session: 'sessions', spec: 'specs', kind: 'kinds' } as const;
type Key = keyof typeof lists;

export const filterKeys = Object.keys(lists) as Key[];
const isKey = (key: string): key is Key => filterKeys.includes(key as Key);

const noSession = ['']; // no session has this name

// narrowed applies all filters to the lists that the query's type has: a table of
// sessions has no kinds. A filter that the backend does not support is an error,
// because an answer without it would be wrong.
export function narrowed(query: Query, has: readonly string[], filters: readonly AdHocFilter[] = []): Query {
  const made = { ...query };
  for (const { key, operator, value, values } of filters) {
    if (!isKey(key)) {
      throw new Error(`Specwatch cannot filter by “${key}”: it filters by ${filterKeys.join(', ')}.`);
    }
    const chosen = operator === '=' ? [value] : operator === '=|' ? (values ?? [value]) : null;
    if (chosen === null) {
      throw new Error(`Specwatch cannot filter by “${key} ${operator}”: it filters by = and by “one of”.`);
    }
    const list = lists[key];
    if (!has.includes(list)) {
      continue;
    }
    const before: readonly string[] = made[list] ?? [];
    const left =
      before.length === 0 ? chosen : chosen.filter((name) => before.includes(name) || isOther(key, name, before));
    if (left.length === 0) {
      made.sessions = noSession;
    } else {
      Object.assign(made, { [list]: left });
    }
  }
  return made;
}

// isOther reports whether the list contains a custom kind as "other".
const isOther = (key: Key, name: string, before: readonly string[]): boolean =>
  key === 'kind' && name.includes('.') && before.includes('other');

export const filterKinds: readonly string[] = [...kinds, 'other'];
