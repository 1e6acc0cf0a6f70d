import React, { useEffect, useRef, useState } from 'react';

import { type PreferredMode, type Settings, complete, intervalBounds } from '../connection/settings';

interface Props {
  settings: Settings;
  save(settings: Settings): void;
  cancel(): void;
}

export function SettingsDialog({ settings, save, cancel }: Props) {
  const [draft, setDraft] = useState({ ...settings, pollingInterval: String(settings.pollingInterval) });
  const dialog = useRef<HTMLDialogElement>(null);
  const id = React.useId();
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  const set = (part: Partial<typeof draft>) => setDraft((before) => ({ ...before, ...part }));
  return (
    <dialog ref={dialog} aria-labelledby={`${id}-title`} onCancel={cancel}>
      <h2 id={`${id}-title`}>Connection settings</h2>
      <form
        className="sw-form"
        onSubmit={(e) => {
          e.preventDefault();
          save(complete({ ...draft, pollingInterval: Number(draft.pollingInterval) }, settings));
        }}
      >
        <div className="field">
          <label htmlFor={`${id}-mode`}>Preferred mode</label>
          <select id={`${id}-mode`} value={draft.preferredMode} onChange={(e) => set({ preferredMode: e.target.value as PreferredMode })}>
            <option value="websocket">Live: pushed as it happens</option>
            <option value="polling">Polling: asked for at an interval</option>
            <option value="auto">Automatic: chosen by the link when the page opens</option>
          </select>
        </div>
        <div className="field">
          <label htmlFor={`${id}-interval`}>Polling interval in seconds</label>
          <input
            id={`${id}-interval`} type="number" required min={intervalBounds.min} max={intervalBounds.max} step={1}
            value={draft.pollingInterval} onChange={(e) => set({ pollingInterval: e.target.value })}
          />
        </div>
        <label className="check">
          <input type="checkbox" checked={draft.autoFallback} onChange={(e) => set({ autoFallback: e.target.checked })} />
          <span>Poll when the live connection is lost</span>
        </label>
        <label className="check">
          <input type="checkbox" checked={draft.manualRefreshOnly} onChange={(e) => set({ manualRefreshOnly: e.target.checked })} />
          <span>Move data on Refresh only</span>
          <span className="sw-soft">New events are counted and wait.</span>
        </label>
        <div className="sw-actions">
          <button type="button" onClick={cancel}>Cancel</button>
          <button type="submit" className="primary">Save</button>
        </div>
      </form>
    </dialog>
  );
}
