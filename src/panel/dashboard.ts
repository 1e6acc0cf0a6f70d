// The dashboard around the panel. Its variable says how the queries of built-in
// panels are delivered, and its refresh interval how often polled ones are asked.
import { getTemplateSrv, locationService } from '@grafana/runtime';

import { type Mode, type Settings } from '../connection/settings';
import { modeVariable, refreshEvent } from '../datasource/types';

const parameter = `var-${modeVariable}`;

// DashboardMode is what the variable holds.
export type DashboardMode = Mode | 'manual';

function asMode(value: string | null): DashboardMode | undefined {
  return value === 'websocket' || value === 'polling' || value === 'manual' ? value : undefined;
}

// linkedMode is the mode that the dashboard's address asks for: what the person
// chose before a reload, or sent to somebody.
export const linkedMode = (): DashboardMode | undefined => asMode(locationService.getSearch().get(parameter));

export const dashboardMode = (): DashboardMode | undefined => asMode(getTemplateSrv().replace(`$${modeVariable}`));

export const dashboardModeOf = (mode: Mode, settings: Settings): DashboardMode => (settings.manualRefreshOnly ? 'manual' : mode);

// watchDashboard tells when the variable may have changed: Grafana keeps it in
// the address.
export const watchDashboard = (changed: () => void): (() => void) => locationService.getHistory().listen(changed);

// driveDashboard leaves a dashboard without the variable alone. Pushed panels
// need no refresh. The step replaces the last one in the browser's history, so
// that Back leaves the dashboard.
export function driveDashboard(mode: DashboardMode, seconds: number): void {
  if (dashboardMode() !== undefined) {
    locationService.partial({ [parameter]: mode, refresh: mode === 'polling' ? `${seconds}s` : '' }, true);
  }
}

// refreshDashboard lets the queries that wait for Refresh ask again.
export const refreshDashboard = (): boolean => window.dispatchEvent(new Event(refreshEvent));
