import { compact } from '../connection/json';
import type { Delivery, SpecEvent } from '../connection/model';
import { brief, messageOf, nameOf } from './text';

// span prints a length of time in its one or two largest units. ms is not finite if
// a time is missing or cannot be read.
export function span(ms: number): string {
  if (!Number.isFinite(ms)) {
    return 'unknown time';
  }
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) {
    return `${s} s`;
  }
  if (s < 3600) {
    return s % 60 && s < 600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 60)} min`;
  }
  if (s < 86_400) {
    return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  }
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export const ago = (ms: number): string =>
  !Number.isFinite(ms) ? 'at an unknown time' : ms < 2_000 ? 'Just now' : `${span(ms)} ago`;

// checked returns how often the server reads new events if PostgreSQL cannot notify
// it.
export const checked = ({ delaySeconds }: Delivery): string =>
  delaySeconds ? `checked every ${Number(delaySeconds.toPrecision(2))} s` : 'checked at intervals';

const clockFormat = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hour12: false,
});
const dayFormat = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });
const yearFormat = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric' });

// clock prints a time of today, and the day too for any other.
export function clock(at: number, now = Date.now()): string {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) {
    return 'no time';
  }
  const text = clockFormat.format(date);
  const today = new Date(now);
  if (date.toDateString() === today.toDateString()) {
    return text;
  }
  return `${(date.getFullYear() === today.getFullYear() ? dayFormat : yearFormat).format(date)}, ${text}`;
}

const minuteFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });

// lifted returns a text for the time at which a usage limit ends; Infinity: it is not
// known.
export function lifted(at: number, now: number): string {
  if (at === Infinity) {
    return 'reset time not known';
  }
  const date = new Date(at);
  const time = minuteFormat.format(date);
  return date.toDateString() === new Date(now).toDateString()
    ? `resets ${time}`
    : `resets ${dayFormat.format(date)}, ${time}`;
}

const longest = 300; // characters of an event's data on one line

// scalarIn returns the text of a string, a number or a boolean; undefined: it is
// another value.
export const scalarIn = (value: unknown): string | undefined =>
  typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? String(value) : undefined;

// short returns a text for any value.
const short = (value: unknown): string => scalarIn(value) ?? compact(value);

const seconds = (value: unknown): string =>
  typeof value !== 'number' ? `${short(value)} s` : value < 60 ? `${Number(value.toFixed(1))} s` : span(value * 1_000);

const plainReasons = ['exit code', 'signal', 'timeout']; // other fields of the data show these

// Texts for the fields that the runner writes.
const phrases = new Map<string, (value: unknown) => string>([
  ['exitCode', (v) => `exit code ${short(v)}`],
  ['signal', (v) => `ended by ${short(v)}`],
  ['durationSeconds', (v) => `after ${seconds(v)}`],
  ['timeoutSeconds', (v) => `timeout ${seconds(v)}`],
  ['idleTimeoutSeconds', (v) => `idle timeout ${seconds(v)}`],
  ['silentSeconds', (v) => `no sign of work for ${seconds(v)}`],
  ['command', (v) => (Array.isArray(v) ? v.map(short).join(' ') : short(v))],
  ['reason', (v) => (plainReasons.includes(short(v)) ? '' : short(v))],
  ['output', (v) => (typeof v === 'string' ? lastLine(v) : short(v))],
  ['usage', (v) => used(v)],
  [
    'resetsAt',
    (v) =>
      typeof v === 'string' && !Number.isNaN(Date.parse(v)) ? lifted(Date.parse(v), Date.now()) : `resets ${short(v)}`,
  ],
]);

const camel = (name: string): string => name.replace(/(?<=[a-z0-9])_([a-z0-9])/g, (_, c: string) => c.toUpperCase());
const words = (name: string): string =>
  name
    .replace(/(?<=[a-z0-9])_(?=[a-z0-9])/g, ' ')
    .replace(/(?<=[a-z0-9])[A-Z](?=[a-z])/g, (c) => ` ${c.toLowerCase()}`);

const lastLine = (text: string): string => text.slice(-2_000).trimEnd().split('\n').at(-1)!.trim();

const tokens = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });

// used returns the cost and the tokens of a usage; empty: it has none.
export const used = (usage: unknown): string => usedIn([usage]);

// usedBy returns the sum over all of the events.
export const usedBy = (events: readonly SpecEvent[]): string =>
  usedIn(
    events.map(({ data }) => (data !== null && typeof data === 'object' && 'usage' in data ? data.usage : undefined))
  );

// usedIn sums as pkg/state does: a value that is not a number, or is negative, is 0.
function usedIn(usages: readonly unknown[]): string {
  let [read, written, cost] = [0, 0, 0];
  for (const usage of usages) {
    if (usage !== null && typeof usage === 'object') {
      const fields = new Map<string, unknown>(Object.entries(usage));
      const number = (name: string) => {
        const value = fields.get(name);
        return typeof value === 'number' && Number.isFinite(value) ? Math.max(value, 0) : 0;
      };
      read += number('inputTokens') + number('input_tokens');
      written += number('outputTokens') + number('output_tokens');
      cost += number('costUsd') + number('cost_usd');
    }
  }
  return [
    cost > 0 ? `$${cost < 0.1 ? Number(cost.toPrecision(2)) : cost.toFixed(2)}` : '',
    read > 0 ? `${tokens.format(read)} tokens in` : '',
    written > 0 ? `${tokens.format(written)} out` : '',
  ]
    .filter((text) => text !== '')
    .join(', ');
}

const messages = ['question', 'message', 'error', 'text', 'title'];

// said returns an event's data on one line: its message, or else its fields.
export function said(data: unknown): string {
  return nameOf(messageIn(data).replace(/\s+/g, ' ').trim(), longest);
}

// asked returns the same with its line breaks, for a question.
export const asked = (data: unknown): string => messageOf(brief(messageIn(data).trim(), 4_000));

function messageIn(data: unknown): string {
  if (data === null || data === undefined) {
    return '';
  }
  if (typeof data !== 'object') {
    return String(data);
  }
  const fields = Object.entries(data);
  const values = new Map<string, unknown>(fields);
  for (const name of messages) {
    const text = scalarIn(values.get(name));
    if (text !== undefined && text !== '') {
      const reset = values.has('resetsAt') ? phrases.get('resetsAt')!(values.get('resetsAt')) : '';
      return reset === '' ? text : `${text}, ${reset}`;
    }
  }
  let all = '';
  const last = fields.filter(([name]) => name === 'output'); // after the other fields, which are shorter
  for (const [name, value] of [...fields.filter(([name]) => name !== 'output'), ...last]) {
    const text = phrases.get(camel(name))?.(value) ?? `${words(name)} ${short(value)}`;
    all += text === '' ? '' : `${all === '' ? '' : ', '}${text}`;
    if (all.length > 8 * longest) {
      break;
    }
  }
  return all;
}
