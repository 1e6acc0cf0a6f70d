// The page that the gateway serves.
import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { Connection } from '../connection/connection';
import { GatewayTransport, signIn } from '../connection/gateway';
import { complete, remember, remembered } from '../connection/settings';
import { SpecwatchView } from '../view/SpecwatchView';
import css from './page.css';

const connection = new Connection(new GatewayTransport(), complete(remembered()));
const darkness = matchMedia('(prefers-color-scheme: dark)');

function Page() {
  const [dark, setDark] = useState(darkness.matches);
  useEffect(() => {
    const follow = () => setDark(darkness.matches);
    darkness.addEventListener('change', follow);
    return () => darkness.removeEventListener('change', follow);
  }, []);
  return (
    <main className="page">
      <style>{css}</style>
      <h1>
        <img src="/logo.svg" alt="" /> Specwatch
      </h1>
      <SpecwatchView connection={connection} dark={dark} onSettings={remember} onSignIn={signIn} />
    </main>
  );
}

connection.start();
createRoot(document.getElementById('root')!).render(<Page />);
