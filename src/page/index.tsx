// The page that the gateway serves: the view of the panel, with the theme that
// Grafana sets in a panel.
import './assets';

import { ThemeContext, createTheme } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, PortalContainer, useStyles2 } from '@grafana/ui';
import { css } from '@emotion/css';
import React, { useEffect, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { Connection } from '../connection/connection';
import { GatewayTransport, signIn } from '../connection/gateway';
import { complete, remember, remembered } from '../connection/settings';
import { Boundary } from '../view/Boundary';
import { SpecwatchView } from '../view/SpecwatchView';
import { NotifyButton } from './NotifyButton';
import { announce } from './notify';

const connection = new Connection(new GatewayTransport(), complete(remembered()));
const darkness = matchMedia('(prefers-color-scheme: dark)');

// The fonts of the device: loading others is slow on a poor link.
const typography = {
  fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
  fontFamilyMonospace: 'ui-monospace, Menlo, Consolas, monospace',
};

function Page() {
  const [dark, setDark] = useState(darkness.matches);
  useEffect(() => {
    const follow = () => setDark(darkness.matches);
    darkness.addEventListener('change', follow);
    return () => darkness.removeEventListener('change', follow);
  }, []);
  const theme = useMemo(() => createTheme({ colors: { mode: dark ? 'dark' : 'light' }, typography }), [dark]);
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Boundary what="This page">
        <Frame />
      </Boundary>
      <PortalContainer />
    </ThemeContext.Provider>
  );
}

function Frame() {
  const styles = useStyles2(getStyles);
  return (
    <main className={styles.page}>
      <div className={styles.head}>
        <h1>
          <img src="logo.svg" alt="" /> Specwatch
        </h1>
        <NotifyButton />
      </div>
      <div className={styles.view}>
        <SpecwatchView connection={connection} onSettings={remember} onSignIn={signIn} />
      </div>
    </main>
  );
}

function getStyles() {
  return {
    page: css({
      display: 'flex',
      flexDirection: 'column',
      height: '100dvh',
      maxWidth: 1280,
      margin: '0 auto',
    }),
    head: css({
      display: 'flex',
      alignItems: 'center',
      justifyContent: 'space-between',
      padding: '12px 8px 4px',
      '& h1': { display: 'flex', alignItems: 'center', gap: 10, margin: 0, fontSize: 20 },
      '& h1 img': { width: 28, height: 28 },
    }),
    view: css({ flex: 1, minHeight: 0 }),
  };
}

connection.start();
announce(connection);
void navigator.serviceWorker?.register('sw.js').catch(() => undefined); // without https there is none
// Grafana's components load their texts here; English needs no file.
void initPluginTranslations('specwatch-events-app').then(() =>
  createRoot(document.getElementById('root')!).render(<Page />)
);
