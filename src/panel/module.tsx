import { PanelPlugin } from '@grafana/data';

import type { PreferredMode } from '../connection/settings';
import { settings } from '../contract.gen';
import { SpecwatchPanel, type Options } from './SpecwatchPanel';

export const plugin = new PanelPlugin<Options>(SpecwatchPanel).setPanelOptions((builder) =>
  builder
    .addRadio({
      path: 'preferredMode',
      name: 'Preferred mode',
      description: 'The default. Each viewer can choose another mode, which is stored in their browser.',
      defaultValue: settings.preferredMode.default as PreferredMode,
      settings: {
        options: [
          { value: 'websocket', label: 'Live' },
          { value: 'polling', label: 'Polling' },
          { value: 'auto', label: 'Automatic' },
        ],
      },
    })
    .addSliderInput({
      path: 'pollingInterval',
      name: 'Polling interval',
      description: 'Seconds between two polls.',
      defaultValue: settings.pollingInterval.default,
      settings: { min: settings.pollingInterval.min, max: settings.pollingInterval.max, step: 1 },
    })
    .addBooleanSwitch({
      path: 'autoFallback',
      name: 'Poll when the live connection is lost',
      defaultValue: settings.autoFallback.default,
    })
    .addBooleanSwitch({
      path: 'manualRefreshOnly',
      name: 'Update on Refresh only',
      defaultValue: settings.manualRefreshOnly.default,
    })
    .addBooleanSwitch({
      path: 'driveDashboard',
      name: 'The toggle switches the whole dashboard',
      description: 'It sets the variable specwatch_mode, if the dashboard has it, and the refresh interval.',
      defaultValue: true,
    })
);
