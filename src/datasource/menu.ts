// Names in menus of variables and filters.
import { AppEvents } from '@grafana/data';
import { getAppEvents, getBackendSrv } from '@grafana/runtime';
import { lastValueFrom } from 'rxjs';

import { resource } from '../connection/grafana';
import { totalHeader } from '../contract.gen';

const told = new Set<string>();

// menu returns the names in a list of the data source. A menu has no place to say
// that it lists a part of the names only. A notification says so, once for each list.
export async function menu(uid: string, list: string, params: Record<string, unknown> = {}): Promise<string[]> {
  const url = resource(uid, list);
  const { data: names, headers } = await lastValueFrom(getBackendSrv().fetch<string[]>({ url, params }));
  const total = Number(headers.get(totalHeader));
  if (total > names.length && !told.has(url)) {
    told.add(url);
    getAppEvents().publish({
      type: AppEvents.alertWarning.name,
      payload: [
        `A menu lists ${names.length.toLocaleString()} of ${total.toLocaleString()} ${list}`,
        'Type a part of a name into the menu to search all.',
      ],
    });
  }
  return names;
}
