// Styles that several parts of the view have.
import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';

// The layout depends on the width of the view, not of the window.
export const container = 'specwatch';
export const narrow = `@container ${container} (max-width: 560px)`;

// heading is for the title of a section.
export const heading = (theme: GrafanaTheme2) => ({
  ...theme.typography.h6,
  color: theme.colors.text.secondary,
  margin: 0,
});

// soft is for text that is less important than the text beside it.
export const soft = (theme: GrafanaTheme2): string =>
  css({ color: theme.colors.text.secondary, fontSize: theme.typography.bodySmall.fontSize });
