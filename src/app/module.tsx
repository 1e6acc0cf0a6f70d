import { AppPlugin } from '@grafana/data';
import { config, getBackendSrv, getDataSourceSrv } from '@grafana/runtime';
import { Button, LinkButton } from '@grafana/ui';
import React, { useEffect, useState } from 'react';
import { lastValueFrom } from 'rxjs';

import { types } from '../datasource/QueryEditor';
import { type Server, type Step, steps } from './steps';
import { suggestions } from './suggestions';

const server: Server = {
  sources: () => getDataSourceSrv().getList({ pluginId: 'specwatch-events-datasource' }),
  liveEnabled: config.liveEnabled,
  get: async <T,>(path: string) =>
    (await lastValueFrom(getBackendSrv().fetch<T>({ url: path, showErrorAlert: false, hideFromInspector: true }))).data,
};

// local is an address below the one that Grafana is served at.
const local = (path: string): string => `${config.appSubUrl}${path}`;

function Steps() {
  const [found, setFound] = useState<Step[] | null>(null);
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    let here = true;
    void steps(server).then((list) => here && setFound(list));
    return () => {
      here = false;
    };
  }, [asked]);
  if (!found) {
    return <p role="status">Looking…</p>;
  }
  return (
    <>
      <ol style={{ paddingLeft: 20 }}>
        {found.map(({ title, done, says, link, command }) => (
          <li key={title} data-testid="specwatch-step" data-done={String(done)} style={{ marginBottom: 12 }}>
            <strong>
              {done === null ? '○' : done ? '✓' : '✗'} {title}
            </strong>
            <div>
              {says}{' '}
              {link && (
                <a href={local(link.path)} style={{ textDecoration: 'underline' }}>
                  {link.text}
                </a>
              )}
            </div>
            {command && <code>{command}</code>}
          </li>
        ))}
      </ol>
      <Button variant="secondary" icon="sync" onClick={() => setAsked(asked + 1)}>
        Check again
      </Button>
    </>
  );
}

function Suggestions({ uid }: { uid: string }) {
  const [copied, setCopied] = useState('');
  return (
    <ul style={{ listStyle: 'none' }}>
      {suggestions(uid, (type) => types[type].label).map(({ queryType, explore, panel }) => (
        <li
          key={queryType}
          data-testid="specwatch-suggestion"
          style={{ display: 'flex', flexWrap: 'wrap', gap: 8, alignItems: 'center', marginBottom: 8 }}
        >
          <span style={{ flex: '1 1 300px' }}>
            <strong>{types[queryType].label}</strong>: {types[queryType].tells}. {types[queryType].suits}.
          </span>
          <LinkButton size="sm" variant="secondary" href={local(explore)}>
            Try in Explore
          </LinkButton>
          <Button
            size="sm"
            variant="secondary"
            onClick={() => {
              localStorage.setItem('panel-copy', JSON.stringify(panel)); // where Grafana keeps a copied panel
              setCopied(queryType);
            }}
          >
            {copied === queryType ? 'Copied: in a dashboard, Add → Paste panel' : 'Copy as a panel'}
          </Button>
        </li>
      ))}
    </ul>
  );
}

// Start is the page of the app, with the steps to a filled dashboard.
function Start() {
  const sources = server.sources();
  const source = sources.find((one) => one.isDefault) ?? sources.at(0);
  return (
    <div style={{ maxWidth: 900, padding: 16 }}>
      <h2>Specwatch</h2>
      <Steps />
      {source && (
        <>
          <h3 style={{ marginTop: 24 }}>Panels of your own</h3>
          <Suggestions uid={source.uid} />
        </>
      )}
    </div>
  );
}

export const plugin = new AppPlugin<object>().setRootPage(Start);
