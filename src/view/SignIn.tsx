import React, { useState } from 'react';

export function SignIn({ signIn, done }: { signIn(token: string): Promise<void>; done(): void }) {
  const [token, setToken] = useState('');
  const [error, setError] = useState('');
  const id = React.useId();
  return (
    <form
      className="sw-card sw-form"
      onSubmit={(e) => {
        e.preventDefault();
        signIn(token).then(done, (reason: Error) => setError(reason.message));
      }}
    >
      <div className="field">
        <label htmlFor={id}>Read token of this gateway</label>
        <input id={id} type="password" required autoComplete="current-password" value={token} onChange={(e) => setToken(e.target.value)} />
        <span className="sw-soft">The gateway has it in SPECWATCH_READ_TOKEN. This browser keeps a cookie, not the token.</span>
        {error && <span className="sw-error" role="alert">{error}</span>}
      </div>
      <div className="sw-actions">
        <button className="primary">Sign in</button>
      </div>
    </form>
  );
}
