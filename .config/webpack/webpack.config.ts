// Two builds: the Grafana plugin into dist/, and the gateway's page into
// pkg/gateway/page/, where the executable takes it in. The file is where
// @grafana/create-plugin keeps it, and where Grafana's validator looks for it.
import { readFileSync } from 'node:fs';
import path from 'node:path';

import CopyPlugin from 'copy-webpack-plugin';
import HtmlPlugin from 'html-webpack-plugin';
import type { Configuration } from 'webpack';

const root = process.cwd();
const source = path.join(root, 'src');
const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };

// The date of a release is that of its commit, so that building it again gives
// the same files.
const epoch = process.env.SOURCE_DATE_EPOCH;
const today = (epoch ? new Date(Number(epoch) * 1000) : new Date()).toISOString().slice(0, 10);

// The version stands in package.json alone.
const transform = (content: Buffer) => content.toString().replaceAll('%VERSION%', version).replaceAll('%TODAY%', today);

const rules = [
  {
    test: /\.tsx?$/,
    use: {
      loader: 'swc-loader',
      options: {
        jsc: {
          target: 'es2021',
          parser: { syntax: 'typescript', tsx: true },
          // Grafana 11.0 gives plugins React, but not react/jsx-runtime.
          transform: { react: { runtime: 'classic' } },
        },
      },
    },
  },
];
const resolve = { extensions: ['.ts', '.tsx', '.js'] };

function plugin(mode: Configuration['mode']): Configuration {
  return {
    name: 'plugin',
    mode,
    context: source,
    entry: {
      module: './app/module.tsx',
      'datasource/module': './datasource/module.ts',
      'panel/module': './panel/module.tsx',
    },
    output: {
      path: path.join(root, 'dist'),
      filename: '[name].js',
      library: { type: 'amd' },
      publicPath: '',
      uniqueName: 'specwatch-events-app',
    },
    // What Grafana brings along.
    externals: ['react', 'react-dom', 'rxjs', '@emotion/css', '@grafana/data', '@grafana/ui', '@grafana/runtime'],
    module: { rules },
    resolve,
    performance: { hints: false },
    stats: 'errors-warnings',
    devtool: 'source-map',
    plugins: [
      new CopyPlugin({
        patterns: [
          { from: path.join(root, 'plugin.json'), to: '.', transform },
          { from: 'README.md', to: '.' },
          { from: path.join(root, 'CHANGELOG.md'), to: '.' },
          { from: path.join(root, 'LICENSE'), to: '[name]', toType: 'template' },
          { from: 'img/logo.svg', to: 'img/' },
          { from: path.join(root, 'docs/img/{grafana,page}.png'), to: 'img/[name][ext]' },
          { from: 'dashboards/*.json', to: '.' },
          ...['datasource', 'panel'].flatMap((part) => [
            { from: `${part}/plugin.json`, to: `${part}/`, transform },
            { from: 'img/logo.svg', to: `${part}/img/` },
          ]),
        ],
      }),
    ],
  };
}

function page(mode: Configuration['mode']): Configuration {
  return {
    name: 'page',
    mode,
    context: source,
    entry: './page/index.tsx',
    output: {
      path: path.join(root, 'pkg/gateway/page'),
      filename: 'assets/[contenthash].js',
      publicPath: '', // relative to the page, which may lie below a path
      clean: { keep: /\.keep$/ },
    },
    module: { rules },
    resolve,
    performance: { hints: false },
    stats: 'errors-warnings',
    devtool: mode === 'production' ? false : 'inline-source-map',
    plugins: [
      new HtmlPlugin({ template: 'page/index.html', scriptLoading: 'defer' }),
      new CopyPlugin({
        patterns: [
          { from: 'img/logo.svg', to: 'logo.svg' },
          { from: 'page/*.{json,png}', to: '[name][ext]' },
          { from: 'page/sw.js', to: 'sw.js' },
          // Grafana's components load their icons one by one; see page/assets.ts.
          { from: path.join(root, 'node_modules/@grafana/ui/dist/public/img/icons'), to: 'assets/build/img/icons' },
          // The package lacks the one of its Spinner.
          { from: 'img/spinner.svg', to: 'assets/build/img/icons/unicons/spinner.svg' },
        ],
      }),
    ],
  };
}

export default (_: unknown, { mode }: { mode: Configuration['mode'] }) => [plugin(mode), page(mode)];
