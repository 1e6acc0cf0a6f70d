// The dashboard around the panel. Its variable says how the queries of built-in
// panels are delivered, and its refresh interval how often polled ones are asked.
import { getTemplateSrv, locationService } from '@grafana/runtime';

import type { Mode } from '../connection/settings';
import { modeVariable } from '../datasource/types';

const parameter = `var-${modeVariable}`;

function asMode(value: string | null): Mode | undefined {
  return value === 'websocket' || value === 'polling' ? value : undefined;
}

// linkedMode is the mode that the dashboard's address asks for: what the person
// chose before a reload, or sent to somebody.
export const linkedMode = (): Mode | undefined => asMode(locationService.getSearch().get(parameter));

export const dashboardMode = (): Mode | undefined => asMode(getTemplateSrv().replace(`$${modeVariable}`));

// watchDashboard tells when the variable may have changed: Grafana keeps it in
// the address.
export const watchDashboard = (changed: () => void): (() => void) => locationService.getHistory().listen(changed);

// driveDashboard leaves a dashboard without the variable alone. Pushed panels
// need no refresh. The step replaces the last one in the browser's history, so
// that Back leaves the dashboard.
export function driveDashboard(mode: Mode, seconds: number): void {
  if (dashboardMode() !== undefined) {
    locationService.partial({ [parameter]: mode, refresh: mode === 'polling' ? `${seconds}s` : '' }, true);
  }
}
