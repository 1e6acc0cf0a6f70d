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

export const dashboardModeOf = (mode: Mode, settings: Settings): DashboardMode =>
  settings.manualRefreshOnly ? 'manual' : mode;

// watchDashboard tells when the variable may have changed: Grafana keeps it in
// the address.
export const watchDashboard = (changed: () => void): (() => void) => locationService.getHistory().listen(changed);

// driveDashboard leaves a dashboard without the variable alone. Pushed panels
// need no refresh. The step replaces the last one in the browser's history, so
// that Back leaves the dashboard.
export function driveDashboard(mode: DashboardMode, seconds: number, scene: SceneNode | undefined): void {
  if (dashboardMode() === undefined) {
    return;
  }
  const refresh = mode === 'polling' ? `${seconds}s` : '';
  const picker = scene && pickerOf(scene);
  if (picker) {
    // Grafana's renderer of scenes takes an interval from the address without
    // starting it, and none without stopping.
    locationService.partial({ [parameter]: mode }, true);
    if (picker.state.refresh !== refresh) {
      picker.onIntervalChanged(refresh);
    }
    return;
  }
  locationService.partial({ [parameter]: mode, refresh }, true);
  if (refresh === '') {
    switchOffRefresh();
  }
}

// switchOffRefresh chooses "Off" in the refresh picker. Grafana's older
// renderer starts an interval that the address asks for, and nothing but the
// picker itself can end it.
function switchOffRefresh(): void {
  const button = document.querySelector<HTMLElement>('[data-testid="data-testid RefreshPicker interval button"]');
  if (!button?.innerText.trim()) {
    return; // it is off, or not there
  }
  const wait = new MutationObserver(() => choose());
  const over = setTimeout(() => wait.disconnect(), 1_000);
  const choose = () => {
    const off = document.querySelector<HTMLElement>('[role="menuitemradio"]');
    if (off) {
      clearTimeout(over);
      wait.disconnect();
      off.click();
    }
  };
  wait.observe(document.body, { childList: true, subtree: true });
  button.click();
}

// SceneNode is what is needed of the objects that a dashboard is made of in
// Grafana's renderer of scenes.
export interface SceneNode {
  parent?: SceneNode;
  forEachChild?(visit: (child: SceneNode) => void): void;
}

interface Picker extends SceneNode {
  state: { refresh: string };
  onIntervalChanged(interval: string): void;
}

const isPicker = (node: SceneNode): node is Picker =>
  typeof (node as Partial<Picker>).onIntervalChanged === 'function' &&
  typeof (node as Partial<Picker>).state?.refresh === 'string';

// pickerOf finds the refresh picker of the dashboard that a node is in.
export function pickerOf(node: SceneNode): Picker | undefined {
  let root = node;
  while (root.parent) {
    root = root.parent;
  }
  let found: Picker | undefined;
  const look = (here: SceneNode) => {
    if (!found && isPicker(here)) {
      found = here;
    }
    if (!found) {
      here.forEachChild?.(look);
    }
  };
  look(root);
  return found;
}

// refreshDashboard lets the queries that wait for Refresh ask again.
export const refreshDashboard = (): boolean => window.dispatchEvent(new Event(refreshEvent));
