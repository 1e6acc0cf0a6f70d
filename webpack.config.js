// Two builds: the Grafana plugin into dist/, and the gateway's page into
// pkg/gateway/page/, where the executable takes it in.
const path = require('node:path');
const CopyPlugin = require('copy-webpack-plugin');
const HtmlPlugin = require('html-webpack-plugin');

const source = path.join(__dirname, 'src');

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

const plugin = (_, argv) => ({
  name: 'plugin',
  mode: argv.mode,
  context: source,
  entry: { module: './app/module.tsx', 'datasource/module': './datasource/module.ts', 'panel/module': './panel/module.tsx' },
  output: { path: path.join(__dirname, 'dist'), filename: '[name].js', library: { type: 'amd' }, publicPath: '' },
  // What Grafana brings along.
  externals: ['react', 'react-dom', 'rxjs', '@emotion/css', '@grafana/data', '@grafana/ui', '@grafana/runtime'],
  module: { rules },
  resolve,
  performance: { hints: false },
  stats: 'errors-warnings',
  devtool: argv.mode === 'production' ? false : 'source-map',
  plugins: [
    new CopyPlugin({
      patterns: [
        { from: path.join(__dirname, 'plugin.json'), to: '.' },
        { from: path.join(__dirname, 'README.md'), to: '.', noErrorOnMissing: true },
        { from: 'img/logo.svg', to: 'img/' },
        { from: 'dashboards/*.json', to: '.' },
        ...['datasource', 'panel'].flatMap((part) => [
          { from: `${part}/plugin.json`, to: `${part}/` },
          { from: 'img/logo.svg', to: `${part}/img/` },
        ]),
      ],
    }),
  ],
});

const page = (_, argv) => ({
  name: 'page',
  mode: argv.mode,
  context: source,
  entry: './page/index.tsx',
  output: {
    path: path.join(__dirname, 'pkg/gateway/page'),
    filename: 'assets/[contenthash].js',
    publicPath: '/',
    clean: { keep: /\.keep$/ },
  },
  module: { rules },
  resolve,
  performance: { hints: false },
  stats: 'errors-warnings',
  devtool: argv.mode === 'production' ? false : 'inline-source-map',
  plugins: [
    new HtmlPlugin({ template: 'page/index.html', scriptLoading: 'defer' }),
    new CopyPlugin({
      patterns: [
        { from: 'img/logo.svg', to: 'logo.svg' },
        // Grafana's components load their icons one by one; see page/assets.ts.
        { from: path.join(path.dirname(require.resolve('@grafana/ui/package.json')), 'dist/public/img/icons'), to: 'assets/build/img/icons' },
        // The package lacks the one of its Spinner.
        { from: 'img/spinner.svg', to: 'assets/build/img/icons/unicons/spinner.svg' },
      ],
    }),
  ],
});

module.exports = [plugin, page];
