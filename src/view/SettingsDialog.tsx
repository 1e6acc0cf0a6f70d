import { css } from '@emotion/css';
import { Button, Checkbox, Field, Modal, RadioButtonGroup, Slider, useStyles2 } from '@grafana/ui';
import React, { useState } from 'react';

import { type PreferredMode, type Settings, complete, intervalBounds } from '../connection/settings';

interface Props {
  settings: Settings;
  save(settings: Settings): void;
  cancel(): void;
}

const modes: Array<{ value: PreferredMode; label: string; description: string }> = [
  { value: 'websocket', label: 'Live', description: 'Pushed as it happens' },
  { value: 'polling', label: 'Polling', description: 'Fetched at an interval' },
  { value: 'auto', label: 'Automatic', description: 'Chosen when the page opens, by the quality of the link' },
];

export function SettingsDialog({ settings, save, cancel }: Props) {
  const [draft, setDraft] = useState(settings);
  const styles = useStyles2(getStyles);
  const set = (part: Partial<Settings>) => setDraft((before) => ({ ...before, ...part }));
  return (
    <Modal title="Connection settings" isOpen onDismiss={cancel}>
      <Field label="Preferred mode" description="Used when this page opens.">
        <RadioButtonGroup
          aria-label="Preferred mode"
          options={modes}
          value={draft.preferredMode}
          onChange={(preferredMode) => set({ preferredMode })}
        />
      </Field>
      <Field
        label="Polling interval"
        description={`Seconds between two polls, ${intervalBounds.min} to ${intervalBounds.max}.`}
      >
        {/* The label is for the slider's text box, which Grafana leaves without a name. */}
        <label className={styles.slider}>
          <span className={styles.unseen}>Polling interval in seconds</span>
          <Slider
            min={intervalBounds.min}
            max={intervalBounds.max}
            step={1}
            value={draft.pollingInterval}
            ariaLabelForHandle="Polling interval in seconds"
            onChange={(pollingInterval) => set({ pollingInterval })}
          />
        </label>
      </Field>
      <Field>
        <Checkbox
          label="Poll when the live connection is lost"
          description="You are asked before it switches back to live."
          value={draft.autoFallback}
          onChange={(e) => set({ autoFallback: e.currentTarget.checked })}
        />
      </Field>
      <Field>
        <Checkbox
          label="Update on Refresh only"
          description="New events are counted, and shown when you press Refresh."
          value={draft.manualRefreshOnly}
          onChange={(e) => set({ manualRefreshOnly: e.currentTarget.checked })}
        />
      </Field>
      <Modal.ButtonRow>
        <Button variant="secondary" fill="outline" onClick={cancel}>
          Cancel
        </Button>
        <Button onClick={() => save(complete(draft, settings))}>Save</Button>
      </Modal.ButtonRow>
    </Modal>
  );
}

function getStyles() {
  return {
    slider: css({ display: 'block', fontWeight: 'normal' }),
    unseen: css({
      position: 'absolute',
      width: 1,
      height: 1,
      overflow: 'hidden',
      clipPath: 'inset(50%)',
      whiteSpace: 'nowrap',
    }),
  };
}
