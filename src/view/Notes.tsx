// Notes of the connection below its badge. A note offers an action and never
// does it by itself.
import { css, cx } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Button, Icon, type IconName, useStyles2 } from '@grafana/ui';
import React, { type ReactNode } from 'react';

import type { Connection, View } from '../connection/connection';
import type { Hint } from '../connection/machine';
import type { State } from '../connection/model';
import { checked, span } from './format';

const reasons: Record<Hint['why'], string> = {
  unstable: 'The live connection was lost several times in five minutes. Polling works better on an unstable link.',
  hidden: 'This page was hidden for a while. Polling uses less battery.',
  busy: 'Every poll brings events. Live would show them as they happen.',
};

const icons: IconName[] = ['bolt', 'exclamation-triangle', 'info-circle', 'bell', 'history', 'clock-nine'];

const skewShown = 120_000; // ms

interface Props {
  view: View;
  connection: Connection;
}

export function Notes({ view, connection }: Props) {
  const { hint, state } = view;
  return (
    <>
      {view.couldBeLive && <LiveAgain connection={connection} />}
      {view.fallback && !view.couldBeLive && (
        <Note icon="exclamation-triangle" tone="warning" text={whyFallback(view)} />
      )}
      {hint && <OtherMode hint={hint} connection={connection} />}
      {view.pending > 0 && <NewEvents pending={view.pending} connection={connection} />}
      {view.restarted && <Restarted connection={connection} />}
      {state?.delivery.push === false && <NoPush state={state} />}
      {view.error && !(view.fallback && view.error === view.lost) && !view.signIn && (
        <Note icon="exclamation-triangle" tone="warning" alert text={view.error} />
      )}
      <HiddenIcons />
      {Math.abs(view.skew) > skewShown && <ClockOff skew={view.skew} />}
    </>
  );
}

function LiveAgain({ connection }: Pick<Props, 'connection'>) {
  return (
    <Note icon="bolt" tone="info" alert text="The live connection works again. Switch back to real-time?">
      <Button size="sm" onClick={() => connection.choose('websocket')}>
        Switch back
      </Button>
      <Button size="sm" variant="secondary" onClick={() => connection.choose('polling')}>
        Stay with polling
      </Button>
    </Note>
  );
}

// whyFallback distinguishes a connection that was lost from one that never worked.
function whyFallback({ worked, lost }: View): string {
  const why = lost === null ? '' : ` ${lost.replace(/\.?$/, '.')}`;
  return worked
    ? `The live connection was lost.${why} Events are polled, and you will be asked once live works again.`
    : `The live connection could not be opened.${why} Events are polled. Live is tried again from time to time, and you will be asked before it is used.`;
}

function OtherMode({ hint, connection }: { hint: Hint; connection: Connection }) {
  return (
    <Note icon="info-circle" tone="info" text={reasons[hint.why]}>
      <Button size="sm" variant="secondary" onClick={() => connection.choose(hint.mode)}>
        {hint.mode === 'polling' ? 'Switch to polling' : 'Switch to live'}
      </Button>
      <Button size="sm" fill="text" onClick={connection.dismiss}>
        Not now
      </Button>
    </Note>
  );
}

function NewEvents({ pending, connection }: { pending: number; connection: Connection }) {
  return (
    <Note icon="bell" tone="info" text={pending === 1 ? '1 new event' : `${pending.toLocaleString()} new events`}>
      <Button size="sm" variant="secondary" onClick={() => void connection.refresh()}>
        Show
      </Button>
    </Note>
  );
}

function Restarted({ connection }: Pick<Props, 'connection'>) {
  return (
    <Note
      icon="history"
      tone="warning"
      text="The database was restored, or failed over. The view has started again with the current events."
    >
      <Button size="sm" fill="text" onClick={connection.dismiss}>
        OK
      </Button>
    </Note>
  );
}

function NoPush({ state }: { state: State }) {
  return (
    <Note
      icon="info-circle"
      tone="info"
      text={`PostgreSQL cannot notify of new events through a connection pooler or from a standby, so the database is ${checked(state.delivery)}. For push, connect Specwatch to the primary server directly.`}
    />
  );
}

// Icons are files: without a network it is too late to load them.
function HiddenIcons() {
  return (
    <span hidden>
      {icons.map((name) => (
        <Icon key={name} name={name} />
      ))}
    </span>
  );
}

function ClockOff({ skew }: { skew: number }) {
  return (
    <Note
      icon="clock-nine"
      tone="info"
      text={`This device’s clock is ${span(Math.round(Math.abs(skew) / 60_000) * 60_000)} ${skew > 0 ? 'behind' : 'ahead of'} the database’s. Ages here follow the database.`}
    />
  );
}

interface NoteProps {
  icon: IconName;
  tone: 'info' | 'warning';
  text: string;
  alert?: boolean;
  children?: ReactNode;
}

function Note({ icon, tone, text, alert, children }: NoteProps) {
  const styles = useStyles2(getStyles);
  return (
    <div className={cx(styles.note, styles[tone])} role={alert ? 'alert' : undefined} data-testid="note">
      <Icon name={icon} />
      <span className={styles.text}>{text}</span>
      {children && <span className={styles.actions}>{children}</span>}
    </div>
  );
}

function getStyles(theme: GrafanaTheme2) {
  return {
    note: css({
      display: 'flex',
      flexWrap: 'wrap',
      alignItems: 'center',
      gap: theme.spacing(1),
      padding: theme.spacing(1, 1.5),
      borderRadius: theme.shape.radius.default,
      border: `1px solid ${theme.colors.border.weak}`,
      borderLeftWidth: 4,
      background: theme.colors.background.secondary,
    }),
    text: css({ flex: '1 1 200px', overflowWrap: 'anywhere' }),
    actions: css({ display: 'flex', flexWrap: 'wrap', gap: theme.spacing(1) }),
    info: css({ borderLeftColor: theme.colors.info.border }),
    warning: css({ borderLeftColor: theme.colors.warning.border }),
  };
}
