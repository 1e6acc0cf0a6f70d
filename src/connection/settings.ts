import { settings as contract } from '../contract.gen';

export type Mode = 'websocket' | 'polling';
export type PreferredMode = Mode | 'auto';

export interface Settings {
  preferredMode: PreferredMode;
  pollingInterval: number; // seconds
  autoFallback: boolean;
  manualRefreshOnly: boolean;
}

export const defaults: Settings = {
  preferredMode: contract.preferredMode.default,
  pollingInterval: contract.pollingInterval.default,
  autoFallback: contract.autoFallback.default,
  manualRefreshOnly: contract.manualRefreshOnly.default,
};

export const intervalBounds = contract.pollingInterval;

// complete replaces missing or invalid values by defaults.
export function complete(partial: Partial<Settings> | undefined, base: Settings = defaults): Settings {
  const s = { ...base, ...partial };
  if (!(contract.preferredMode.values as readonly string[]).includes(s.preferredMode)) {
    s.preferredMode = base.preferredMode;
  }
  const interval = Math.round(Number(s.pollingInterval));
  s.pollingInterval = Number.isFinite(interval)
    ? Math.min(Math.max(interval, intervalBounds.min), intervalBounds.max)
    : base.pollingInterval;
  return s;
}

const key = 'specwatch.settings';

// The user's settings are stored in this browser, if it allows storage.
export function remembered(): Partial<Settings> | undefined {
  try {
    return JSON.parse(localStorage.getItem(key) ?? 'null') ?? undefined;
  } catch {
    return undefined;
  }
}

export function remember(settings: Settings): void {
  try {
    localStorage.setItem(key, JSON.stringify(settings));
  } catch {
    // as above
  }
}

// startMode is the mode at load. `auto` chooses by the link, and later only
// shows hints.
export function startMode(s: Settings): Mode {
  if (s.preferredMode !== 'auto') {
    return s.preferredMode;
  }
  const link = (globalThis.navigator as { connection?: { saveData?: boolean; effectiveType?: string } } | undefined)
    ?.connection;
  return link?.saveData || /2g/.test(link?.effectiveType ?? '') ? 'polling' : 'websocket';
}
