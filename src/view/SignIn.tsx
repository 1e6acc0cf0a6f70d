import { Button, Field, Input } from '@grafana/ui';
import React, { useState } from 'react';

export function SignIn({ signIn, done }: { signIn(token: string): Promise<void>; done(): void }) {
  const [token, setToken] = useState('');
  const [error, setError] = useState('');
  const id = React.useId();
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        signIn(token).then(done, (reason: Error) => setError(reason.message));
      }}
    >
      <Field
        label="Token of this gateway"
        htmlFor={id}
        invalid={error !== ''}
        error={error}
        description="SPECWATCH_READ_TOKEN of the gateway or, to answer requests as well, SPECWATCH_WRITE_TOKEN. This browser keeps a cookie, not the token."
      >
        <Input
          id={id}
          type="password"
          required
          autoComplete="current-password"
          value={token}
          onChange={(e) => setToken(e.currentTarget.value)}
        />
      </Field>
      <Button type="submit">Sign in</Button>
    </form>
  );
}
