import { defineConfig } from 'vitest/config';

// Grafana's packages name exports of CommonJS modules, which Node.js refuses.
export default defineConfig({
  test: {
    include: ['src/**/*.test.{ts,tsx}', '.config/*.test.ts'],
    testTimeout: 60_000, // loading Grafana's components takes long on a busy machine
    setupFiles: ['vitest.setup.ts'],
    server: { deps: { inline: [/@grafana\//] } },
  },
});
