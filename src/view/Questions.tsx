// Requests of the loop, and the user's answers.
import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { Button, Input, useStyles2 } from '@grafana/ui';
import React, { useEffect, useId, useState } from 'react';

import type { Connection } from '../connection/connection';
import type { Answer, State, Waiting } from '../connection/model';
import { TokenNeeded } from '../connection/transport';
import { Boundary } from './Boundary';
import { ago, span } from './format';
import { type Ask, askOf } from './ask';
import { narrow } from './styles';
import { brief, nameOf } from './text';

const listed = 5;

interface Props {
  state: State;
  now: number;
  connection: Connection;
  showEvents(session: string, spec: string): void;
}

export function Questions({ state, now, connection, showEvents }: Props) {
  const styles = useStyles2(getStyles);
  const why = useCannotAnswer(connection, state);
  if (state.waiting.length === 0) {
    return null;
  }
  const more = state.waitingTotal - Math.min(listed, state.waiting.length);
  return (
    <div className={styles.questions} role="region" aria-label="Waiting for you">
      <h2>Waiting for you</h2>
      {state.waiting.slice(0, listed).map((request) => (
        <Boundary key={request.id} what={`Request ${request.id}`} retry={state}>
          <Question request={request} now={now} why={why} connection={connection} showEvents={showEvents} />
        </Boundary>
      ))}
      {more > 0 && <p className={styles.soft}>and {more.toLocaleString()} more</p>}
    </div>
  );
}

// useCannotAnswer returns why the user cannot answer: empty if they can, null while
// it is not known. It checks again with each new request.
function useCannotAnswer(connection: Connection, { waiting }: State): string | null {
  const [why, setWhy] = useState<string | null>(null);
  const latest = Math.max(0, ...waiting.map(({ id }) => id));
  useEffect(() => {
    let current = latest > 0;
    const set = (text: string) => current && setWhy(text);
    if (current) {
      connection.cannotAnswer().then(
        (text) => set(text ?? ''),
        (error: Error) => set(error.message)
      );
    }
    return () => {
      current = false;
    };
  }, [connection, latest]);
  return why;
}

function Question({
  request,
  now,
  why,
  connection,
  showEvents,
}: Omit<Props, 'state'> & { request: Waiting; why: string | null }) {
  const styles = useStyles2(getStyles);
  const ask = askOf(request.data);
  const from = `${request.spec === '' ? '' : `${nameOf(request.spec)}, `}${nameOf(request.session)}`;
  return (
    <div className={styles.question} data-testid="question">
      <p className={styles.text}>{ask.question || 'An intervention was requested.'}</p>
      <p className={styles.soft}>
        <button
          type="button"
          className={styles.link}
          title="Show its events"
          onClick={() => showEvents(request.session, request.spec)}
        >
          {from}
        </button>
        {`, ${ago(now - Date.parse(request.at))}`}
        {deadline(ask, Date.parse(request.at), now)}
        {ask.elsewhere && '. The agent takes the answer in its own terminal'}
        {ask.clipped && '. The question is shortened; its event contains all of it'}
      </p>
      {ask.elsewhere && ask.options.length > 0 && (
        <p className={styles.soft}>{`Options: ${ask.options.map((option) => brief(option, 200)).join(', ')}`}</p>
      )}
      {why === '' && <Reply request={request} ask={ask} connection={connection} />}
      {why && (
        <p className={styles.soft} data-testid="cannot-answer">
          {why}
        </p>
      )}
    </div>
  );
}

// deadline returns what happens without an answer, and when.
function deadline({ timeout, fallback }: Ask, at: number, now: number): string {
  const left = timeout === undefined ? NaN : at + timeout * 1_000 - now;
  const otherwise = fallback === undefined ? '' : `“${brief(fallback, 80)}” is taken`;
  if (Number.isNaN(left)) {
    return otherwise && `. Without an answer ${otherwise}`;
  }
  const when = left > 0 ? `in ${span(left)}` : 'now';
  return otherwise
    ? `. Without an answer ${otherwise} ${when}`
    : `. It waits ${left > 0 ? `${span(left)} more` : 'no longer'}`;
}

const offered = 12; // options shown as buttons; others can be typed

function Reply({ request, ask, connection }: { request: Waiting; ask: Ask; connection: Connection }) {
  const styles = useStyles2(getStyles);
  const [text, setText] = useState('');
  const [token, setToken] = useState('');
  const { sending, sent, fault, held, send, release } = useSending(request, connection);
  if (sent !== '') {
    return (
      <p className={styles.soft} role="status" data-testid="answered">
        {sent}
      </p>
    );
  }
  const dismiss = (
    <Button
      type="button"
      variant="secondary"
      fill="outline"
      disabled={sending}
      title="It does not need an answer any more"
      onClick={() => send({ dismissed: true })}
    >
      Dismiss
    </Button>
  );
  const part = { sending, send };
  return (
    <>
      {held ? (
        <TokenForm {...part} answer={held} token={token} setToken={setToken} back={release} />
      ) : ask.elsewhere ? (
        <div className={styles.reply}>{dismiss}</div>
      ) : (
        <>
          {ask.options.length > 0 && <Options {...part} options={ask.options} />}
          <TextForm {...part} text={text} setText={setText} another={ask.options.length > 0}>
            {dismiss}
          </TextForm>
        </>
      )}
      {fault !== '' && (
        <p role="alert" className={styles.fault}>
          {fault}
        </p>
      )}
    </>
  );
}

// Sending is what the parts of a reply need to send an answer.
interface Sending {
  sending: boolean;
  send(answer: Answer, token?: string): void;
}

// useSending sends an answer. If the gateway needs its write token first, the
// answer is held until it is sent with the token, or released.
function useSending(request: Waiting, connection: Connection) {
  const [sending, setSending] = useState(false);
  const [sent, setSent] = useState('');
  const [fault, setFault] = useState('');
  const [held, setHeld] = useState<Answer | null>(null);
  const send = (answer: Answer, token?: string) => {
    setSending(true);
    setFault('');
    connection
      .answer(request, answer, token)
      .then(
        () => {
          setHeld(null);
          setSent('answer' in answer ? `Answered: ${brief(answer.answer, 200)}` : 'Dismissed');
        },
        (error: Error) => {
          setHeld(error instanceof TokenNeeded ? answer : null);
          setFault(error.message);
        }
      )
      .finally(() => setSending(false));
  };
  return { sending, sent, fault, held, send, release: () => setHeld(null) };
}

interface TokenProps extends Sending {
  answer: Answer;
  token: string;
  setToken(token: string): void;
  back(): void;
}

function TokenForm({ sending, send, answer, token, setToken, back }: TokenProps) {
  const styles = useStyles2(getStyles);
  const id = useId();
  return (
    <form
      className={styles.reply}
      onSubmit={(e) => {
        e.preventDefault();
        send(answer, token.trim());
      }}
    >
      <label htmlFor={id}>Write token of this gateway (SPECWATCH_WRITE_TOKEN)</label>
      <Input
        id={id}
        className={styles.field}
        type="password"
        required
        autoComplete="off"
        value={token}
        onChange={(e) => setToken(e.currentTarget.value)}
      />
      <Button type="submit" disabled={sending}>
        Send with token
      </Button>
      <Button type="button" variant="secondary" onClick={back}>
        Back
      </Button>
    </form>
  );
}

function Options({ sending, send, options }: Sending & { options: string[] }) {
  const styles = useStyles2(getStyles);
  return (
    <div className={styles.reply} role="group" aria-label="Options">
      {options.slice(0, offered).map((option, i) => (
        <Button
          key={i}
          className={styles.option}
          variant="secondary"
          disabled={sending}
          title={option}
          onClick={() => send({ answer: option })}
        >
          {brief(option, 200)}
        </Button>
      ))}
    </div>
  );
}

interface TextProps extends Sending {
  text: string;
  setText(text: string): void;
  another: boolean; // besides the options
  children: React.ReactNode;
}

function TextForm({ sending, send, text, setText, another, children }: TextProps) {
  const styles = useStyles2(getStyles);
  return (
    <form
      className={styles.reply}
      onSubmit={(e) => {
        e.preventDefault();
        send({ answer: text });
      }}
    >
      <Input
        className={styles.field}
        aria-label="Answer"
        placeholder={another ? 'Another answer' : 'Answer'}
        required
        value={text}
        onChange={(e) => setText(e.currentTarget.value)}
      />
      <Button type="submit" size="md" disabled={sending || text === ''}>
        Send
      </Button>
      {children}
    </form>
  );
}

function getStyles(theme: GrafanaTheme2) {
  const fingers = {
    '& button, & input': { minHeight: 44, height: 'auto' },
    '& > div, & > div > div': { height: 'auto' },
  } as const; // px: large enough for a finger
  return {
    questions: css({
      padding: theme.spacing(1, 1.5),
      borderRadius: theme.shape.radius.default,
      border: `1px solid ${theme.colors.warning.border}`,
      background: theme.colors.warning.transparent,
      '& h2': { color: theme.colors.text.primary },
    }),
    question: css({
      display: 'grid',
      gap: theme.spacing(0.75),
      padding: theme.spacing(1, 0),
      'h2 + &': { paddingTop: 0 },
      '& + &': { borderTop: `1px solid ${theme.colors.border.weak}` },
    }),
    text: css({
      fontWeight: theme.typography.fontWeightMedium,
      whiteSpace: 'pre-wrap',
      overflowWrap: 'anywhere',
      maxHeight: '40vh',
      overflow: 'auto',
    }),
    soft: css({
      color: theme.colors.text.primary,
      fontSize: theme.typography.bodySmall.fontSize,
      overflowWrap: 'anywhere',
    }),
    link: css({
      all: 'unset',
      cursor: 'pointer',
      textDecoration: 'underline',
      '&:focus-visible': { outline: `2px solid ${theme.colors.primary.border}` },
    }),
    reply: css({
      display: 'flex',
      flexWrap: 'wrap',
      alignItems: 'center',
      gap: theme.spacing(1),
      minWidth: 0,
      [narrow]: fingers,
      '@media (pointer: coarse)': fingers,
    }),
    field: css({ flex: '1 1 160px', maxWidth: 420, minWidth: 0 }),
    // Phones cannot show a tooltip with the full text.
    option: css({
      maxWidth: '100%',
      height: 'auto',
      minHeight: theme.spacing(4),
      textAlign: 'start',
      overflowWrap: 'anywhere',
      '& > span': { whiteSpace: 'normal', padding: theme.spacing(0.5, 0) },
    }),
    fault: css({ color: theme.colors.error.text, overflowWrap: 'anywhere' }),
  };
}
