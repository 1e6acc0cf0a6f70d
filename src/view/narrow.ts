// The view's own width, not that of the window, decides how it is laid out.
export const container = 'specwatch';
export const narrow = `@container ${container} (max-width: 560px)`;
