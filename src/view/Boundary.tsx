// An error in one part of the view is shown in its place; the other parts work.
import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Button, useStyles2 } from '@grafana/ui';
import React, { Component, type ReactNode } from 'react';

interface Props {
  what: string; // name of the part, for the message
  retry?: unknown; // another value: try again with other data
  children: ReactNode;
}

interface Fault {
  reason: string | null;
}

export class Boundary extends Component<Props, Fault> {
  state: Fault = { reason: null };

  static getDerivedStateFromError(error: unknown): Fault {
    return { reason: error instanceof Error ? error.message : String(error) };
  }

  componentDidUpdate(before: Props): void {
    if (this.state.reason !== null && before.retry !== this.props.retry) {
      this.again();
    }
  }

  private again = () => this.setState({ reason: null });

  render(): ReactNode {
    const { reason } = this.state;
    return reason === null ? this.props.children : <Failed what={this.props.what} reason={reason} again={this.again} />;
  }
}

function Failed({ what, reason, again }: { what: string; reason: string; again(): void }) {
  const styles = useStyles2(getStyles);
  return (
    <div className={styles.failed} role="alert" data-testid="failed">
      <span>
        {what} cannot be shown, by a fault in Specwatch: {reason.slice(0, 200)}. It is tried again with the next data.
      </span>
      <Button size="sm" variant="secondary" onClick={again}>
        Try again
      </Button>
    </div>
  );
}

function getStyles(theme: GrafanaTheme2) {
  return {
    failed: css({
      display: 'flex',
      flexWrap: 'wrap',
      alignItems: 'center',
      gap: theme.spacing(1),
      padding: theme.spacing(1, 1.5),
      borderRadius: theme.shape.radius.default,
      border: `1px solid ${theme.colors.error.border}`,
      overflowWrap: 'anywhere',
      '& > span': { flex: '1 1 200px' },
    }),
  };
}
