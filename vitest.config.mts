import { defineConfig } from 'vitest/config';

// Grafana's packages name exports of CommonJS modules, which Node.js refuses.
export default defineConfig({ test: { include: ['src/**/*.test.ts'], server: { deps: { inline: [/@grafana\//] } } } });
