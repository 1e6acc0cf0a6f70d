import grafana from '@grafana/eslint-config';

export default [
  { ignores: ['dist', 'bin', 'pkg', 'release', '.specwatch', 'src/**/*.gen.ts'] },
  ...grafana.map((config) => ({ ...config, files: ['**/*.{ts,tsx,mts}'] })),
  {
    files: ['**/*.{ts,tsx,mts}'],
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    // Names a library that React's compiler would leave alone; nothing here is compiled by it.
    rules: { 'react-hooks/incompatible-library': 'off' },
  },
  // Playwright's fixtures take a function `use`, which is no hook.
  { files: ['tests/**'], rules: { 'react-hooks/rules-of-hooks': 'off' } },
];
