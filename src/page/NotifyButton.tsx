import { IconButton } from '@grafana/ui';
import React, { useState } from 'react';

import { type Permission, askPermission, permission } from './notify';

const words: Record<Permission, string> = {
  default: 'Notify me of timeouts, requests, silence and failures while this page is open',
  granted: 'This browser notifies you while this page is open',
  denied: 'Notifications are blocked for this page: allow them in the settings of the browser',
  unavailable: 'This browser notifies on pages with https and on localhost only',
};

export function NotifyButton() {
  const [given, setGiven] = useState(permission);
  return (
    <IconButton
      name={given === 'granted' ? 'bell' : 'bell-slash'}
      size="lg"
      aria-label="Notifications"
      aria-pressed={given === 'granted'}
      tooltip={words[given]}
      onClick={() => void askPermission().then(setGiven)}
    />
  );
}
