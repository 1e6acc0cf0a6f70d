// The dashboard that contains the panel. Its variable is the mode of the queries of
// built-in panels, and its refresh interval the time between two polls.
import { getTemplateSrv, locationService } from '@grafana/runtime';

import { type Mode, type Settings } from '../connection/settings';
import { modeVariable, refreshEvent } from '../datasource/types';

const parameter = `var-${modeVariable}`;

// DashboardMode is a value of the variable.
export type DashboardMode = Mode | 'manual';

function asMode(value: string | null): DashboardMode | undefined {
  return value === 'websocket' || value === 'polling' || value === 'manual' ? value : undefined;
}

// linkedMode returns the mode in the dashboard's address: the user's choice before a
// reload, or that of the user who sent the link.
export const linkedMode = (): DashboardMode | undefined => asMode(locationService.getSearch().get(parameter));

export const dashboardMode = (): DashboardMode | undefined => asMode(getTemplateSrv().replace(`$${modeVariable}`));

export const dashboardModeOf = (mode: Mode, settings: Settings): DashboardMode =>
  settings.manualRefreshOnly ? 'manual' : mode;

// watchDashboard calls changed when the variable may have changed: Grafana keeps the
// variable in the address.
export const watchDashboard = (changed: () => void): (() => void) => locationService.getHistory().listen(changed);

// driveDashboard sets the variable and the refresh interval. It does nothing in a
// dashboard without the variable. Live panels need no refresh interval. The new
// address replaces the last one in the browser's history, so that Back leaves the
// dashboard.
export function driveDashboard(mode: DashboardMode, seconds: number, scene: SceneNode | undefined): void {
  if (dashboardMode() === undefined) {
    return;
  }
  const refresh = mode === 'polling' ? `${seconds}s` : '';
  const picker = scene && pickerOf(scene);
  if (picker) {
    // If the address changes the interval, Grafana's scenes renderer shows it, but
    // does not start or stop it.
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

// switchOffRefresh chooses "Off" in the refresh picker. Grafana's older renderer
// starts an interval that is in the address, and only the picker can end it.
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

// SceneNode is the part that is used here of the objects of which Grafana's scenes
// renderer makes a dashboard.
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

// pickerOf returns the refresh picker of the dashboard that contains a node.
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

// refreshDashboard runs the queries that wait for Refresh.
export const refreshDashboard = (): boolean => window.dispatchEvent(new Event(refreshEvent));
