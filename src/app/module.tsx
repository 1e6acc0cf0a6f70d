import { AppPlugin } from '@grafana/data';
import React from 'react';

// The app carries the data source, the panel and the dashboard; its page says
// what to do with them.
function Start() {
  return (
    <div style={{ maxWidth: 640, padding: 16 }}>
      <h2>Specwatch</h2>
      <ol style={{ paddingLeft: 20, lineHeight: 2 }}>
        <li>
          <a href="/connections/datasources/specwatch-events-datasource">Add the Specwatch data source</a> and press Save &amp; test.
        </li>
        <li>Open the dashboard “Specwatch”, which this app has brought along.</li>
        <li>
          Let your loop report: <code>specwatch run --spec NAME -- COMMAND</code>
        </li>
      </ol>
    </div>
  );
}

export const plugin = new AppPlugin<object>().setRootPage(Start);
