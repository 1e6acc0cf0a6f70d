// The layout depends on the width of the view, not of the window.
export const container = 'specwatch';
export const narrow = `@container ${container} (max-width: 560px)`;
